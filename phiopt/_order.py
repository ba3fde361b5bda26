"""Arguments of a verb in the places of others: an error that says the right order."""

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, signature
from itertools import pairwise
from typing import Any, ParamSpec, TypeVar

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from phiopt._shown import shown

P = ParamSpec("P")
R = TypeVar("R")

MODULE, MODULES, DATA = "an nn.Module", "a list of modules", "data"
_KINDS = {
    "teacher": MODULE,
    "student": MODULE,
    "model": MODULE,
    "models": MODULES,
    "data": DATA,
    "lambdas": "weights λ",
    "percentages": "percentages",
    "neighbourhood": "a Neighbourhood",
    "outer": "an OuterLoss",
    "map": "a GrowthMap",
    "optimizer": "a torch.optim.Optimizer",
    "fill": "the name of a fill",
}
"""What arguments of these names are."""

_MEMBERS = {
    "weights λ": ("task", "proximity", "noise", "curvature"),
    "a Neighbourhood": ("perturb", "draw"),
    "an OuterLoss": ("robust", "of", "sources"),
    "a GrowthMap": ("placements", "embed", "extract"),
}
"""Members by which objects of a kind are known."""


def in_order(verb: Callable[P, R]) -> Callable[P, R]:
    """The same verb. A call with an argument in the place of another is refused, with the right order.

    An argument that is certainly of the kind of another argument is in the wrong place. What is of no kind that is
    known here is left to the verb's own checks.
    """
    parameters = signature(verb).parameters
    kinds = {name: _KINDS[name] for name in parameters if name in _KINDS}
    places = [n for n, p in parameters.items() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    own = places[:1] in (["cls"], ["self"])
    rest = ", ..." if len(parameters) > len(places) else ""
    order = f"{verb.__qualname__.removesuffix('.__init__')}({', '.join(places[own:])}{rest})"

    @wraps(verb)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if len(args) > len(places):
            raise TypeError(_too_many(order, len(places) - own, args[own:], "data" in places))
        given: dict[str, object] = {**dict(zip(places, args, strict=False)), **kwargs}
        for name, kind in kinds.items():
            actual = kinds_of(given.get(name))
            others = [other for other in kinds if kinds[other] in actual]
            if kind in actual or not others:
                continue
            place = f"; give it as {others[0]}=" if others[0] not in places else ""
            raise TypeError(
                f"{name}: got {shown(given[name])}, which is {kinds[others[0]]}{place}; must be {kind}: {order}"
            )
        return verb(*args, **kwargs)

    return checked


def kinds_of(value: object) -> set[str]:
    """What a value certainly is; empty if that is not known."""
    if isinstance(value, type):
        return set()
    kinds = {
        kind for kind, names in _MEMBERS.items() if all(hasattr(value, member) for member in names)
    }
    parts = list(value) if isinstance(value, tuple | list) else []
    numbers = bool(parts) and all(type(x) in (int, float) for x in parts)
    known = {
        MODULE: isinstance(value, nn.Module),
        MODULES: bool(parts) and all(isinstance(x, nn.Module) for x in parts),
        DATA: isinstance(value, DataLoader | Dataset) or _is_batch(value),
        "weights λ": numbers and len(parts) == 4 and abs(sum(parts) - 1) < 1e-3,
        "percentages": numbers,
        "a torch.optim.Optimizer": isinstance(value, Optimizer),
    }
    return kinds | {kind for kind, yes in known.items() if yes}


def _is_batch(value: object) -> bool:
    """Whether a value is inputs and targets, as tensors or arrays, or a mapping of such with labels."""
    if isinstance(value, Mapping):
        return any("label" in str(key) for key in value) and all(map(_is_array, value.values()))
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_array, value))


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def _too_many(order: str, most: int, args: tuple[Any, ...], takes_data: bool) -> str:
    """The error of more arguments by position than there are."""
    text = f"{order}: got {len(args)} arguments by position, must be {most} at most"
    pairs = pairwise(args)
    if takes_data and any(_is_array(x) and _is_array(y) for x, y in pairs):
        return f"{text}; inputs and targets are one argument, data=(inputs, targets)"
    return f"{text}; give the others by name"
