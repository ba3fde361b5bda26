"""From a posed problem to its solution: the solve, and what is measured of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from torch import nn
from torch.distributed import ProcessGroup

from phiopt._modules import with_tensors
from phiopt._progress import showing
from phiopt._transforms import plain
from phiopt._types import Params
from phiopt.data import Source
from phiopt.growth import GrowthMap
from phiopt.objective import Lambdas, Objective
from phiopt.solve import Level, Outcome, Solution, Solver, fresh_draws, reported, verdict
from phiopt.solve.forecast import tell_forecast


class PosedProblem(Protocol):
    """See `phiopt.Problem`."""

    @property
    def objective(self) -> Objective: ...
    @property
    def start(self) -> Params: ...
    @property
    def student(self) -> nn.Module: ...
    @property
    def map(self) -> GrowthMap: ...
    @property
    def scale(self) -> str: ...
    @property
    def source(self) -> Source | None: ...
    @property
    def process_group(self) -> ProcessGroup | None: ...
    @property
    def left_out(self) -> Mapping[str, str]: ...
    @property
    def third_derivatives(self) -> Callable[[], bool]: ...


def solved(
    problem: PosedProblem,
    weights: Lambdas,
    solver: Solver,
    solve: Callable[[Objective, Params], Outcome],
    level: Level | None,
    restarts: int,
    seed: int,
    progress: bool,
) -> Solution:
    """The outcome of ``solve``, with restarts and a certificate."""
    objective, start = problem.objective, problem.start
    with showing(progress):
        # Drawn now, because later the data may fail.
        fresh = fresh_draws(objective, start, solver.batch_size, seed, level)
        if problem.process_group is None:  # the others would have to time the same gradient
            options: dict[str, Any] = {"solver": solver, "level": level, "restarts": restarts}
            tell_forecast(objective, start, fresh, **options, seed=seed)
        outcome = solve(objective, start)
        params = {name: plain(name, value) for name, value in outcome.params.items()}
        outcome, certificate, left_out = reported(
            outcome,
            params,
            objective,
            start,
            fresh,
            level=level,
            solver=solver,
            restarts=restarts,
            seed=seed,
            progress=progress,
            third_derivatives=problem.third_derivatives,
            left_out=problem.left_out,
        )
    return Solution(
        student=with_tensors(problem.student, params),
        params=outcome.params,
        status=verdict(replace(outcome, params=params), certificate),
        terms=outcome.terms,
        start_terms=outcome.start_terms,
        objective=outcome.objective,
        start_objective=outcome.start_objective,
        scale=problem.scale,
        divisors=dict(objective.divisors),
        lambdas=weights,
        extra={name: float(weight) for name, weight in objective.extra.items()},
        certificate=certificate,
        history=outcome.history,
        stats=outcome.stats,
        error=outcome.error,
        map=problem.map,
        left_out=left_out,
    )
