"""Many solves at once: points λ and problems on stacked parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten
from tqdm import tqdm

from phiopt._inputs import as_loss_takes
from phiopt.objective import Lambdas, Objective, Term
from phiopt.solve.outcome import Outcome, Status
from phiopt.solve.solver import SolvesMany
from phiopt.solve.stacked import LAMBDAS, StackableProblem, StackedSolves

FIELDS = ("micro_batch", "psi", "extra")
EXAMPLES = 256
"""Examples on which the functions of each problem are compared with those of the first."""


def solve_many(
    solver: SolvesMany, problems: Sequence[StackableProblem], lambdas: Tensor
) -> list[list[Outcome]]:
    """φ at every point of ``lambdas`` for every problem, all at once.

    Each outcome is, to rounding, that of ``solver.solve`` on the problem with those weights. The draws of a problem
    are the same at every point. Each point has an optimiser of its own. A failure at one point (NaN, a roll-back)
    does not affect the others.

    Points at which a step has the same passes are solved together: those with and without curvature are apart, and so
    are those with and without a term that has inputs of its own, such as noise. Any term is computed if a point of
    its group weighs it, and must then be finite at all of them. Memory is that of one gradient times the number of
    problems and points. An exception while data are read is raised.

    Args:
        solver: `TorchOpt` with fresh draws and no ``tol``, or another solver that is `SolvesMany`.
        problems: ``S`` problems, of different seeds or teachers.
        lambdas: Points of the simplex, ``(N, 4)``.

    Returns:
        ``S`` lists of ``N`` outcomes. Their ``seconds`` are equal shares of the whole time.

    Raises:
        ValueError: ``solver`` has a ``tol`` or frozen draws, ``problems`` is empty, has batches of
            different sizes, or differs in what is not stacked (δ, the loss, classes), ``lambdas``
            is not ``(N, 4)`` or has a point off the simplex.
        TypeError: ``solver`` is not `SolvesMany`, its optimiser cannot be batched, or ``lambdas`` is no
            tensor.
    """
    _check(solver, problems, lambdas)
    check_compatible(problems)
    solved: list[dict[int, Outcome]] = [{} for _ in problems]
    kinds = _kinds(problems[0].objective, lambdas)
    for kind in kinds.unique():
        group = kinds == kind
        points = group.nonzero().flatten().tolist()
        outcomes = _solve(solver, problems, lambdas[group])
        for number, by_point in enumerate(solved):
            first = number * len(points)
            by_point.update(zip(points, outcomes[first : first + len(points)], strict=True))
    return [[by_point[point] for point in range(len(lambdas))] for by_point in solved]


def _kinds(objective: Objective, lambdas: Tensor) -> Tensor:
    """A number for each point. Points with the same number have the same passes in a step."""
    terms = [term for name in LAMBDAS if (term := objective.term(name)) is not None]
    weighed = {term.name: lambdas[:, LAMBDAS.index(term.name)] != 0 for term in terms}
    extra = [t for t in objective.terms if objective.extra.get(t.name)]

    def any_of(chosen: Sequence[Term]) -> Tensor:
        none = torch.zeros(len(lambdas), dtype=torch.bool, device=lambdas.device)
        always = torch.ones_like(none)
        return torch.stack([none, *(weighed.get(t.name, always) for t in chosen)]).any(0)

    candidates = [*terms, *extra]
    on_data = [t for t in candidates if t.over != "parameters"]
    own = [t for t in on_data if t.own_inputs]
    others = [t for t in on_data if not t.own_inputs]
    curved = [t for t in candidates if t.third_derivatives]
    return any_of(curved).int() + 2 * any_of(own).int() + 4 * any_of(others).int()


def _check(solver: object, problems: Sequence[StackableProblem], lambdas: Tensor) -> None:
    if not isinstance(solver, SolvesMany):
        raise TypeError(
            f"solver: got {type(solver).__name__}, must be one that takes the steps of many solves together, "
            "such as TorchOpt; or solve one at a time"
        )
    if solver.apart_reason:
        raise ValueError(f"solver: got {solver}, {solver.apart_reason} to be batched")
    if not problems:
        raise ValueError("problems: got none, at least one is needed")
    if not isinstance(lambdas, Tensor):
        raise TypeError(f"lambdas: got {type(lambdas).__name__}, must be a tensor (N, 4)")
    if lambdas.dim() != 2 or lambdas.shape[1] != 4 or len(lambdas) == 0:
        raise ValueError(f"lambdas: got shape {tuple(lambdas.shape)}, must be (N, 4)")
    for point in lambdas.tolist():
        Lambdas.of(point)


@torch.no_grad()
def _solve(
    solver: SolvesMany, problems: Sequence[StackableProblem], lambdas: Tensor
) -> list[Outcome]:
    began = perf_counter()
    optimizer = solver.transformation(problems[0].objective.interval)
    with _fallbacks_unmentioned():
        solves = StackedSolves(problems, lambdas, optimizer, batch_size=solver.batch_size)
        outcomes = solver.drive(solves, began, tqdm(disable=True))
    for outcome in outcomes:
        if outcome.status in (Status.DATA_FAILED, Status.INTERRUPTED):
            assert outcome.error is not None, "what the data raised, or the interrupt"
            raise outcome.error
    return outcomes


@contextmanager
def _fallbacks_unmentioned() -> Iterator[None]:
    """Inside this context PyTorch does not warn that it batches an operation of TorchOpt by a loop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield


@torch.no_grad()
def check_compatible(problems: Sequence[StackableProblem]) -> None:
    """Refuse problems that differ in something that all must share, by its name. Objects are compared by their
    fields, functions by their results on the other problem's start and first examples.
    """
    first = problems[0].objective
    for number, problem in enumerate(problems[1:], 1):
        objective = problem.objective
        if objective.names != first.names:
            _refuse(number, f"terms ({first.names} and {objective.names})")
        for name in FIELDS:
            _compare(number, name, getattr(first, name), getattr(objective, name))
        for term, other in zip(first.terms, objective.terms, strict=True):
            theirs = _attempted(number, term.name, partial(other.shared, problem.start))
            ours = _attempted(
                number, next(iter(theirs), term.name), partial(term.shared, problem.start)
            )
            for name, value in theirs.items():
                _compare(number, name, ours[name], value)
        for name, call in _calls(problem):
            if getattr(first, name) is getattr(objective, name):
                continue
            results = [
                _attempted(number, name, partial(call, getattr(of, name)))
                for of in (first, objective)
            ]
            if not _same(*results):
                what = "loss, or in the classes that it reads" if name == "loss" else name
                _refuse(number, what)


def _compare(number: int, name: str, ours: Any, theirs: Any) -> None:
    if not _same(_fields(ours), _fields(theirs)):
        _refuse(number, name if isinstance(ours, dict) else f"{name} ({ours} and {theirs})")


def _attempted(number: int, name: str, call: Callable[[], Any]) -> Any:
    """The result of a call. If the call fails, the problems differ in what is called."""
    try:
        return call()
    except (RuntimeError, AttributeError, KeyError, IndexError):
        _refuse(number, name)


def _refuse(number: int, what: str) -> NoReturn:
    raise ValueError(
        f"problems: number {number} differs from number 0 in its {what}; all must share it, since that of "
        "number 0 is used for all. Solve problems that differ in separate calls"
    )


def _calls(problem: StackableProblem) -> list[tuple[str, Callable[[Any], Any]]]:
    """The objective's functions by name, each with a way to call it."""
    data = problem.objective.data
    if data is None:
        return []
    inputs, targets = data.example
    x, y = inputs[:EXAMPLES], targets[:EXAMPLES]
    w = problem.constants | problem.start
    outputs = problem.objective.model(w, x)
    return [
        ("model", lambda model: model(w, x)),
        ("loss", lambda loss: loss(outputs, as_loss_takes(y))),
    ]


def _fields(value: Any) -> Any:
    return value if isinstance(value, dict) else (type(value), getattr(value, "__dict__", value))


def _same(first: Any, second: Any) -> bool:
    """Whether two trees of tensors and other things are equal, tensors to rounding."""
    (leaves, tree), (others, shape) = tree_flatten(first), tree_flatten(second)
    return tree == shape and all(map(_equal, leaves, others))


def _equal(first: Any, second: Any) -> bool:
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return bool(first == second)
    comparable = first.shape == second.shape and first.dtype == second.dtype
    return comparable and torch.allclose(first, second, equal_nan=True)
