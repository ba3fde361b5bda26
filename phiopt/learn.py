"""The outer level: learn λ, δ and θ of φ for what the student should be good at."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from phiopt._arguments import SCALES, check_modules, check_parts
from phiopt._checks import Scalar, flag, one_of, part, seed_of
from phiopt._described import described
from phiopt._modules import copied
from phiopt._order import in_order
from phiopt._paths import check_path
from phiopt._posing import derived_map
from phiopt._randomness import preserved_randomness
from phiopt._shown import shown
from phiopt._types import Function, Lift, Loss, Params
from phiopt.bilevel import Adjoint
from phiopt.bilevel.adjoint import check_steps
from phiopt.bilevel.outer import OuterLoss, Value, check_disjoint
from phiopt.bilevel.records import opened
from phiopt.bilevel.run import Run
from phiopt.bilevel.search import Mirror, Search
from phiopt.bilevel.space import Space, space_from
from phiopt.bilevel.start import uniform_start
from phiopt.bilevel.trial import Learned, Trial
from phiopt.data import Data, Source, check_source
from phiopt.growth import GrowthMap
from phiopt.objective import Curvature, Lambdas, Neighbourhood, Term, Uniform
from phiopt.objective.extra import check_extra
from phiopt.pose import pose
from phiopt.problem import Problem
from phiopt.solve import Solution, Solver, TorchOpt

__all__ = ["Learned", "Trial", "learn"]


@in_order
@torch.inference_mode(False)
@torch.enable_grad()  # a search needs gradients, also inside torch.no_grad
def learn(
    teacher: nn.Module,
    student: nn.Module,
    data: Source,
    outer: OuterLoss,
    *,
    lambdas: Lambdas | Iterable[float] = (0.25, 0.25, 0.25, 0.25),
    parameters: Collection[str] = ("lambdas",),
    theta: float = 0.01,
    floor: float = 0.01,
    search: Search | None = None,
    test: Source | None = None,
    map: GrowthMap | None = None,
    lift: Lift | None = None,
    classes: Sequence[int] | Tensor | None = None,
    loss: Loss | None = None,
    neighbourhood: Neighbourhood | None = None,
    curvature: Curvature | None = None,
    extra: Sequence[tuple[Scalar, Term]] = (),
    scale: Literal["relative", "paper"] = "relative",
    start: str | Params | None = None,
    solver: Solver | None = None,
    restrict_classes: bool = False,
    directory: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Learned:
    """Find λ (and δ, θ) for which the student that φ gives has a small outer loss.

        min over (λ, δ, θ) of E(w1),   w1 = argmin_w L(w; λ, δ) from w0(θ),   λ2 ≥ floor

    This is a bilevel problem, whose lower level is φ (paper, section 4). Every evaluation uses the same draws, so E is
    a fixed function. See docs/bilevel.md for the derivatives.

    Args:
        teacher: As in `initialize`, and so are ``student``, ``data``, ``map``, ``lift``, ``classes``,
            ``loss``, ``neighbourhood``, ``curvature``, ``extra``, ``scale``, ``start``, ``solver`` and
            ``restrict_classes``.
        student: The larger model.
        data: D1, as in `initialize`.
        outer: E, with data held out from D2.
        lambdas: Where the search starts; default the simplex's centre. Updates are multiplicative, so a weight of
            0 stays 0, and its term is not computed: (⅓, ⅓, ⅓, 0) learns the other three without the cost of the
            curvature.
        parameters: Which of "lambdas", "delta" and "theta" are learned; δ and θ in log space.
        theta: Where the search for θ starts; default 0.01. If θ is learned ``start`` must be "uniform" or
            "uniform-symmetric".
        floor: Least λ2, in (0, 1); default 0.01.
        search: `Mirror` (default) or `Optuna`.
        test: The test set, if at hand: outer data that share an input with it are refused.
        directory: Where finished trials are kept; made if it is not there. A search that was killed goes on when
            it is called again with the same arguments, and gives what it would have given. Another process that
            is called with the same directory waits until the first has ended. None: trials are not kept.
        seed: Seed of every random draw.
        progress: Show a progress bar, on a terminal only.

    Returns:
        `Learned`: the solution at the best point, the path of λ and the outer curve.

    A trial whose solve ends at a saddle, or has no derivative that can be trusted, is repeated once from a start
    nearby, moved by seeded noise. Both are in the path, with a mark. If that does not help the search goes on from
    other points. A trial whose solve diverged or was not finite has a mark too. Any other error in the first trial is
    raised. In a later trial it ends the search, with the best point until then and a status that says so. There is a
    warning if the solve of the chosen solution failed.

    Raises:
        AdjointError: No solution had a derivative that can be trusted, and no other point was better than the
            start.
        SolveError: The data could not be read to the end of the first solve.
        FloatingPointError: E is finite nowhere.
        ValueError, TypeError: An argument breaks its rule; the message names it, before any work. Or ``directory``
            holds a search with other arguments, a damaged file, or trials whose numbers cannot be reproduced.
        OSError: ``directory`` cannot be written.

    Examples:
        >>> teacher, student = nn.Linear(3, 2), nn.Linear(3, 4)
        >>> d1 = torch.randn(20, 3), torch.randint(2, (20,))
        >>> held_out = torch.randn(20, 3), torch.randint(4, (20,))
        >>> from phiopt import TorchOpt
        >>> options = {"solver": TorchOpt(steps=5), "search": Mirror(budget=5)}
        >>> learned = learn(teacher, student, d1, OuterLoss(held_out), **options)
        >>> learned.outer <= learned.start_outer
        True
    """
    search = Mirror() if search is None else search
    solver = TorchOpt() if solver is None else solver
    options: dict[str, Any] = {
        "lift": lift,
        "classes": classes,
        "loss": loss,
        "neighbourhood": Uniform(0.1) if neighbourhood is None else neighbourhood,
        "curvature": curvature,
        "extra": check_extra(extra),
        "scale": scale,
        "start": start,
        "map": map,
        "restrict_classes": restrict_classes,
        "seed": seed_of(seed),
    }
    _check(search, outer, directory, progress, solver, options)
    space = space_from(lambdas, parameters, options["neighbourhood"], start, theta, floor)
    check_source("data", data)
    like = check_modules(teacher, student)
    check_steps(solver, search.adjoint)
    value = _outer(outer, student, like, search, test, options["seed"])
    solve = _Inner.of(teacher, student, data, space, solver, options)
    models = {"teacher": teacher, "student": student, "data": data, "outer": outer}
    options |= models | {"solver": solver}
    arguments = {} if directory is None else _described(options, search, space)
    with (
        torch.autocast(like.device.type, enabled=False),  # as in each solve
        opened(None if directory is None else Path(directory), arguments, student) as records,
        tqdm(desc="learn", initial=len(records.records), disable=None if progress else True) as bar,
    ):
        return Run(solve, value, search.adjoint, int(seed), bar, records).through(search, space)


@dataclass(frozen=True)
class _Inner:
    """φ at a point of the search, differentiable in it by an adjoint."""

    problem: Problem
    solver: Solver
    terms: list[int]
    origin: Callable[[Tensor], Params] | None

    @classmethod
    def of(
        cls,
        teacher: nn.Module,
        student: nn.Module,
        data: Source,
        space: Space,
        solver: Solver,
        options: Mapping[str, Any],
    ) -> _Inner:
        fixed = copied(teacher, "teacher").requires_grad_(False)  # û is given, not learned
        origin, options = None, dict(options)
        if "theta" in space.start:
            options["map"] = options["map"] or _map(fixed, student, data, options)
            grown = {"map": options["map"], "seed": options["seed"]}
            origin = uniform_start(fixed, student, options["start"], **grown)
            options["start"] = origin(space.start["theta"])
        weights = _weights(space.start["lambdas"], space.terms)
        batch_size = solver.batch_size
        problem = pose(fixed, student, weights, data, batch_size=batch_size, **options)
        return cls(problem, solver, space.terms, origin)

    def __call__(self, point: Params, adjoint: Adjoint | None) -> Solution:
        solution = self.problem.solve(
            _weights(point["lambdas"], self.terms),
            delta=point.get("delta"),
            start=None if self.origin is None else self.origin(point["theta"]),
            solver=self.solver,
            adjoint=adjoint,
            throw=False,
        )
        if isinstance(solution.error, KeyboardInterrupt):
            raise solution.error  # the whole search is to end
        return solution


def _weights(point: Tensor, terms: list[int]) -> Lambdas:
    """λ: a term that is not learned has the number 0, and is not computed."""
    return Lambdas(*(w if i in terms else 0.0 for i, w in enumerate(point)))


def _map(
    teacher: nn.Module, student: nn.Module, data: Source, options: Mapping[str, Any]
) -> GrowthMap:
    """Where the teacher sits in the student."""
    like = next(student.parameters())
    with preserved_randomness(data, like.device, options["seed"]):
        inputs = Data(data, like.device, like.dtype).example[0][:2]
    return derived_map(teacher, student, options["lift"], options["classes"], inputs)


def _check(
    search: object,
    outer: object,
    directory: object,
    progress: object,
    solver: object,
    options: Mapping[str, Any],
) -> None:
    """Refuse arguments before the models and the data are looked at."""
    part("search", search, Search)
    if not isinstance(outer, OuterLoss):
        raise TypeError(f"outer: got {shown(outer)}, must be an OuterLoss")
    for name, value in (
        ("restrict_classes", options["restrict_classes"]),
        ("progress", progress),
    ):
        flag(name, value)
    if directory is not None:
        check_path("directory", directory)
        if os.path.isfile(directory):  # type: ignore[arg-type]
            raise ValueError(f"directory: got {directory}, which is a file; must be a directory")
    one_of("scale", options["scale"], SCALES)
    kinds = {"lift": Function, "loss": Function, "curvature": Curvature}
    check_parts({name: (options[name], kind) for name, kind in kinds.items()})
    part("solver", solver, Solver)
    part("neighbourhood", options["neighbourhood"], Neighbourhood)


def _outer(
    outer: OuterLoss,
    student: nn.Module,
    like: Tensor,
    search: Search,
    test: Source | None,
    seed: int,
) -> Value:
    """E, with all its draws made, so that its errors come before a solve."""
    sources = outer.sources
    if test is not None:
        with preserved_randomness(test, like.device, seed, *sources.values()):
            for name, source in sources.items():
                check_disjoint(name, source, test)
    with preserved_randomness(None, like.device, seed, *sources.values()):
        return outer.of(student, seed, differentiable=search.adjoint is not None)


def _described(arguments: Mapping[str, object], search: Search, space: Space) -> dict[str, str]:
    """A description of a search. Two searches with different arguments have different descriptions."""
    settings = {
        "search": search,
        "lambdas": space.start["lambdas"],
        "parameters": sorted(space.start),
        "theta": space.start.get("theta"),
        "floor": space.floor,
    }
    pairs = {**arguments, **settings}.items()
    return {k: text for name, value in pairs for k, text in described(name, value).items()}
