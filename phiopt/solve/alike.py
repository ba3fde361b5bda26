"""Whether problems that are to be solved as one are the same, but for what is stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from phiopt.solve.stacked import StackableProblem

FIELDS = ("neighbourhood", "curvature", "micro_batch", "psi")
EXAMPLES = 256
"""On so many functions are compared, each problem's with the first one's."""


@torch.no_grad()
def check_alike(problems: Sequence[StackableProblem]) -> None:
    """Refuse problems that differ in something there is one of for all, by its name: objects by their
    fields, functions by what they make of the second problem's start and first examples.
    """
    first = problems[0].objective
    for number, problem in enumerate(problems[1:], 1):
        for name in FIELDS:
            one, other = getattr(first, name), getattr(problem.objective, name)
            if not _same(_fields(one), _fields(other)):
                _refuse(number, f"{name} ({one} and {other})")
        for name, call in _calls(problem):
            if getattr(first, name) is getattr(problem.objective, name):
                continue
            try:
                found = [call(getattr(of, name)) for of in (first, problem.objective)]
            except (RuntimeError, AttributeError, KeyError, IndexError):
                _refuse(number, name)
            if not _same(*found):
                what = "loss, or in the classes that it reads" if name == "loss" else name
                _refuse(number, what)


def _refuse(number: int, what: str) -> None:
    raise ValueError(
        f"problems: number {number} differs from number 0 in its {what}; all must share it, since "
        "one is solved with for all. Solve those that differ in calls of their own"
    )


def _calls(problem: StackableProblem) -> list[tuple[str, Callable[[Any], Any]]]:
    """The objective's functions by name, and how to call one."""
    start, data = problem.start, problem.objective.data
    calls: list[tuple[str, Callable[[Any], Any]]] = [("extract", lambda extract: extract(start))]
    if data is None:
        return calls
    x, y = (part[:EXAMPLES] for part in data.example)
    w = problem.constants | start
    outputs = problem.objective.model(w, x)
    return [*calls, ("model", lambda model: model(w, x)), ("loss", lambda loss: loss(outputs, y))]


def _fields(value: Any) -> Any:
    return value if isinstance(value, dict) else (type(value), getattr(value, "__dict__", value))


def _same(one: Any, other: Any) -> bool:
    """Equal as trees of tensors, to rounding, and of other things."""
    (ours, tree), (theirs, shape) = tree_flatten(one), tree_flatten(other)
    return tree == shape and all(map(_equal, ours, theirs))


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return bool(one == other)
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and torch.allclose(one, other, equal_nan=True)
