"""Move the state of the teacher's optimiser into an optimiser for the grown student."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from phiopt._checks import instance
from phiopt._order import in_order
from phiopt.growth.map import GrowthMap

_FRESH = {"sum": "initial_accumulator_value", "step_size": "lr"}
"""The option that gives the starting value, for state that does not start at zero (Adagrad, Rprop)."""


@runtime_checkable
class Wrapper(Protocol):
    """An optimiser that passes its calls on to another one, as that of accelerate does."""

    optimizer: Optimizer


@in_order
def carry_optimizer(
    optimizer: Optimizer, map: GrowthMap, teacher: nn.Module, student: nn.Module
) -> Optimizer:
    """An optimiser for the grown student that goes on from the teacher's state.

    A state tensor of its parameter's shape (momentum, Adam's moments) is embedded as the parameter is: old coordinates
    have the teacher's state, new ones start fresh, for most state at zero. Numbers such as ``step`` are carried as they
    are. With equal gradients the old coordinates then move exactly as the teacher's would.

    Args:
        optimizer: An optimiser of the teacher's parameters, or of some of them; never modified. Its class, parameter
            groups and hyperparameters are kept. A parameter that only the student has joins, without state, the group
            of the parameter most like it: with the same last part of the name and the same rank (``bias``, 1 axis), in
            the nearest module. A frozen parameter joins only if ``optimizer`` has all of the teacher's. Parameters of
            the teacher that ``optimizer`` lacks stay out. An optimiser that wraps another one, such as
            accelerate's, stands for the other.
        map: The map from ``teacher`` to ``student``.
        teacher: The module whose parameters ``optimizer`` holds.
        student: The grown module, as [`grow`][phiopt.growth.grow] returns it.

    Returns:
        A new optimiser of the same class over the student's parameters. Each group is in the order of
        ``student.parameters()``, with ``param_names`` if the teacher's has them. So the ``state_dict()`` fits an
        optimiser that is made from ``student.parameters()``, or from the same groups.

    Raises:
        TypeError: A state tensor has not the shape of its parameter (L-BFGS, Adafactor), or the class cannot be made
            from parameter groups and its own defaults.
        ValueError: The optimiser holds a tensor that is no parameter of the teacher's, or the student lacks a
            parameter of the map.

    Adam's ``step`` belongs to a whole tensor. The moments of new coordinates start at zero and are not corrected for
    it: their first step is up to √(1 − β₂)⁻¹ (1 − β₁) ≈ 3 learning rates long. Warm the rate up, or clear the state of
    tensors that should start over.

    Examples:
        >>> from phiopt.growth import GrowthMap, grow
        >>> small, large = nn.Linear(4, 2), nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
        >>> small(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> m = GrowthMap.between(small, large)
        >>> grown = grow(small, large, "zero", map=m)
        >>> carried = carry_optimizer(optimizer, m, small, grown)
        >>> carried.state[grown.bias]["momentum_buffer"]
        tensor([1., 1., 0.])
    """
    instance("optimizer", optimizer, Optimizer, "a torch.optim.Optimizer")
    instance("map", map, GrowthMap, "a GrowthMap")
    for role, module in (("teacher", teacher), ("student", student)):
        instance(role, module, nn.Module, "an nn.Module")
    while isinstance(optimizer, Wrapper) and isinstance(optimizer.optimizer, Optimizer):
        optimizer = optimizer.optimizer
    names = _names(optimizer, teacher, student)
    owners = dict(student.named_parameters(remove_duplicate=False))
    targets = {name: _target(name, map, owners) for name in names.values()}
    _check_state(optimizer, names)
    groups = _groups(optimizer, names, targets)
    _place_fresh(groups, map, teacher, student)
    order, prefix = {p: i for i, p in enumerate(student.parameters())}, _prefix(optimizer, names)
    for group in groups:
        group["params"].sort(key=lambda name: order[owners[name]])
        group["params"] = [
            owners[name] if prefix is None else (prefix + name, owners[name])
            for name in group["params"]
        ]
    carried = _like(optimizer, groups)
    for group in optimizer.param_groups:
        for p in group["params"]:
            state, target = optimizer.state.get(p), targets[names[p]]
            if state and target is not None:
                fresh = {k: group.get(option, 0.0) for k, option in _FRESH.items()}
                carried.state[owners[target]] = {
                    key: _embedded(map, names[p], value, owners[target], fresh.get(key, 0.0))
                    if _shaped(value, p)
                    else copy.deepcopy(value)
                    for key, value in state.items()
                }
    return carried


def _names(optimizer: Optimizer, teacher: nn.Module, student: nn.Module) -> dict[Tensor, str]:
    """The teacher's name of every parameter that the optimiser holds."""
    known = {p: name for name, p in teacher.named_parameters()}
    names, others = {}, set(student.parameters())
    for i, group in enumerate(optimizer.param_groups):
        for j, p in enumerate(group["params"]):
            if p not in known:
                swapped = ", but of the student's; are the two swapped?" if p in others else ""
                raise ValueError(
                    f"optimizer: parameter {j} of group {i}, of shape {tuple(p.shape)}, is none of the teacher's"
                    f"{swapped}"
                )
            names[p] = known[p]
    return names


def _target(name: str, map: GrowthMap, owners: dict[str, nn.Parameter]) -> str | None:
    """The student's name of a parameter; ``None`` if the map does not place it, as a head that only training uses."""
    place = map.placements.get(name)
    if place is None:
        return None
    if place.student not in owners or tuple(owners[place.student].shape) != place.shape:
        raise ValueError(
            f"student: must have a parameter {place.student} of shape {place.shape}, where the map puts {name}"
        )
    return place.student


def _check_state(optimizer: Optimizer, names: dict[Tensor, str]) -> None:
    for p, name in names.items():
        for key, value in optimizer.state.get(p, {}).items():
            number = value is None or isinstance(value, bool | int | float)
            if not (
                number or (isinstance(value, Tensor) and (value.ndim == 0 or _shaped(value, p)))
            ):
                what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(
                    f"optimizer: {type(optimizer).__name__} keeps {key!r} ({what}) for {name} of shape "
                    f"{tuple(p.shape)}; only numbers and tensors of the parameter's shape can be carried"
                )


def _shaped(value: object, p: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == p.shape


def _groups(
    optimizer: Optimizer, names: dict[Tensor, str], targets: dict[str, str | None]
) -> list[dict[str, Any]]:
    """The parameter groups, by the student's names."""
    return [
        {key: copy.deepcopy(v) for key, v in group.items() if key not in ("params", "param_names")}
        | {"params": [t for p in group["params"] if (t := targets[names[p]]) is not None]}
        for group in optimizer.param_groups
    ]


def _place_fresh(
    groups: list[dict[str, Any]], map: GrowthMap, teacher: nn.Module, student: nn.Module
) -> None:
    """Add each parameter that only the student has to the group of the parameter most like it."""
    owners = dict(student.named_parameters(remove_duplicate=False))
    group_of = {target: group for group in groups for target in group["params"]}
    placed = {
        map.placements[name].student: p
        for name, p in teacher.named_parameters()
        if name in map.placements and map.placements[name].student in owners
    }
    others = [t for t, p in placed.items() if t not in group_of and p.requires_grad]
    everything, old = group_of.keys() == placed.keys(), {owners[target] for target in placed}
    for name, p in student.named_parameters():
        if p in old or not (p.requires_grad or everything):
            continue
        near = [(_likeness(name, p, t, owners[t]), t) for t in (*group_of, *others)]
        group = group_of.get(max(near, key=lambda pair: pair[0])[1]) if near else groups[0]
        if group is not None:
            group["params"].append(name)


def _likeness(name: str, p: Tensor, other: str, q: Tensor) -> tuple[bool, int, float]:
    """Whether two parameters are of the same kind, and how near their modules are."""
    *path, last = name.split(".")
    *way, end = other.split(".")
    shared = next((i for i, (a, b) in enumerate(zip(path, way, strict=False)) if a != b), None)
    if shared is None:
        shared, steps = min(len(path), len(way)), 0
    else:
        a, b = path[shared], way[shared]
        steps = abs(int(a) - int(b)) if a.isdecimal() and b.isdecimal() else 0
    return (last, p.ndim) == (end, q.ndim), shared, -steps


def _prefix(optimizer: Optimizer, names: dict[Tensor, str]) -> str | None:
    """The prefix of the optimiser's own names of parameters before the teacher's; ``None`` if it has no names."""
    if "param_names" not in optimizer.param_groups[0]:
        return None
    given = {
        called.removesuffix(names[p]) if called.endswith(names[p]) else ""
        for group in optimizer.param_groups
        for p, called in zip(group["params"], group["param_names"], strict=True)
    }
    return given.pop() if len(given) == 1 else ""


def _like(optimizer: Optimizer, groups: Iterable[dict[str, Any]]) -> Optimizer:
    """A new optimiser of the same class and defaults."""
    kind = type(optimizer)
    accepted = inspect.signature(kind).parameters
    options = {k: copy.deepcopy(v) for k, v in optimizer.defaults.items() if k in accepted}
    try:
        return kind(list(groups), **options)
    except TypeError as error:
        raise TypeError(
            f"optimizer: {kind.__name__} cannot be made from parameter groups and its defaults: {error}"
        ) from error


def _embedded(map: GrowthMap, name: str, value: Tensor, like: Tensor, fresh: float) -> Tensor:
    target = map.placements[name].student
    into = torch.full_like(like, float(fresh), dtype=value.dtype, requires_grad=False)
    return map.embed({name: value.detach()}, into={target: into})[target]
