"""Parameter groups for a training after growth: rates by layer, and by what comes from the teacher."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from phiopt._checks import instance, positive, within
from phiopt._order import in_order
from phiopt._shown import shown
from phiopt._types import Params
from phiopt.growth import GrowthMap


@in_order
def param_groups(
    model: nn.Module,
    map: GrowthMap,
    lr: float,
    *,
    carried: float = 1.0,
    new: float = 1.0,
    depth_decay: float = 1.0,
    frozen: str | Collection[str] = (),
) -> list[dict[str, Any]]:
    """Parameter groups of a grown model for any optimiser of ``torch.optim``.

        rate of a tensor = lr · (carried or new) · depth_decay^(layers after it)

    A tensor counts as carried if at least half of its coordinates are the teacher's. To give the two kinds of
    coordinates of one tensor rates of their own, use `CoordinateRates`.

    Layers are counted in the order in which the model names its parameters. The items of a list or sequence are layers,
    as ``blocks.3`` and ``layer1.0``. What comes before the first, between two lists, and after the last is one layer
    each. In a model without lists each of its children is a layer.

    Args:
        model: The grown model, as [`grow`][phiopt.growth.grow] or ``solution.student`` gives it; never modified.
        map: The map by which it grew: ``solution.map``, or that of `GrowthMap.between`.
        lr: The rate of a tensor in the last layer, before the factor.
        carried: Factor of carried tensors; default 1.
        new: Factor of the other tensors; default 1.
        depth_decay: Factor from each layer to the one before it, in (0, 1]; default 1. For transformers .65 to .95 is
            usual.
        frozen: Names of parameters or modules that are left out, with ``*`` for a part of a name: ``"blocks.0"``,
            ``"*.bias"``. ``"carried"``: all tensors that are the teacher's as a whole. Default none. Parameters that do
            not require grad are left out in any case.

    Returns:
        Groups with ``params``, ``lr`` and ``name``, such as ``"blocks.3, carried"``.

    Raises:
        ValueError: A factor breaks its rule, the map is of another model, a name in ``frozen`` fits no parameter, or no
            parameter is left.
        TypeError: An argument is of another kind.

    Examples:
        >>> from phiopt.growth import grow
        >>> small = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> large = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 3))
        >>> m = GrowthMap.between(small, large)
        >>> grown = grow(small, large, "zero-out", map=m)
        >>> groups = param_groups(grown, m, 0.1, carried=0.1, depth_decay=0.5)
        >>> [(group["name"], group["lr"]) for group in groups]
        [('0, new', 0.05), ('2, new', 0.1), ('2, carried', 0.010000000000000002)]
        >>> optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    """
    lr = positive("lr", lr)
    factors = {"carried": positive("carried", carried), "new": positive("new", new)}
    decay = within("depth_decay", depth_decay, 0, 1)
    if not decay:
        raise ValueError("depth_decay: got 0, must be positive and at most 1")
    masks = carried_masks(model, map)
    left_out = _left_out([frozen] if isinstance(frozen, str) else frozen, masks)
    layers = layers_of(masks)
    last = max(number for number, _ in layers.values())
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or name in left_out:
            continue
        number, layer = layers[name]
        kind = "carried" if masks[name].double().mean() >= 0.5 else "new"
        label = f"{layer}, {kind}"
        rate = lr * factors[kind] * decay ** (last - number)
        group = groups.setdefault(label, {"params": [], "lr": rate, "name": label})
        group["params"].append(parameter)
    if not groups:
        raise ValueError(f"frozen: got {shown(frozen)}, which leaves no parameter to train")
    return list(groups.values())


def carried_masks(model: nn.Module, map: GrowthMap) -> Params:
    """Where each parameter of the grown model is the teacher's.

    Raises:
        TypeError, ValueError: ``model`` is no module, ``map`` no map, or the map is of another model.
    """
    instance("model", model, nn.Module, "an nn.Module")
    instance("map", map, GrowthMap, "a GrowthMap")
    masks = map.mask()
    for name, parameter in model.named_parameters():
        there = tuple(masks[name].shape) if name in masks else None
        if there != tuple(parameter.shape):
            lacks = "does not know it" if there is None else f"has {there}"
            raise ValueError(
                f"map: the model's {name} has shape {tuple(parameter.shape)}, and the map {lacks}; must be the map by "
                "which the model grew, and the model itself, not a wrapper"
            )
    return {name: masks[name] for name, _ in model.named_parameters()}


def layers_of(names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """The number and the name of the layer of each parameter, in their order; see `param_groups`."""
    paths = {name: name.split(".")[:-1] for name in names}
    keys = {name: _item(path) for name, path in paths.items()}
    if not any(keys.values()):
        shared = len(_shared(list(paths.values())))
        keys = {name: ".".join(path[: shared + 1]) for name, path in paths.items()}
    out: dict[str, tuple[int, str]] = {}
    layers: dict[str, tuple[int, str]] = {}
    count = 0
    for key, run in groupby(keys, key=keys.__getitem__):
        members = list(run)
        if not key or key not in layers:  # what is in no list is a layer of its own at each place
            layers[key] = count, key or members[0].partition(".")[0]
            count += 1
        out |= dict.fromkeys(members, layers[key])
    return out


def _shared(paths: list[list[str]]) -> list[str]:
    """The first parts of paths, as far as all have the same."""
    first = min(paths, key=len)
    differ = (i for i, part in enumerate(first) if any(path[i] != part for path in paths))
    return first[: next(differ, len(first))]


def _item(path: list[str]) -> str:
    """The path up to the first item of a list; empty if it is in none."""
    at = next((i for i, part in enumerate(path) if part.isdecimal()), None)
    return "" if at is None else ".".join(path[: at + 1])


def _left_out(frozen: Collection[str], masks: dict[str, Tensor]) -> set[str]:
    """Names of the parameters that are not trained."""
    instance("frozen", frozen, (list, tuple, set, frozenset), "names of parameters or modules")
    out: set[str] = set()
    for pattern in frozen:
        instance("frozen", pattern, str, "names of parameters or modules")
        if pattern == "carried":
            fits = {name for name, mask in masks.items() if mask.all()}
        else:
            fits = {n for n in masks if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")}
        if not fits:
            names = ", ".join(list(masks)[:8])
            raise ValueError(f"frozen: {pattern!r} fits no parameter; there are {names}, ...")
        out |= fits
    return out
