"""A search for λ in progress. Each evaluation is solved or read from the records, and the best is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phiopt._modules import state_of
from phiopt._types import Params
from phiopt._warnings import warn
from phiopt.bilevel.adjoint import Adjoint, AdjointError
from phiopt.bilevel.nudge import Nudged
from phiopt.bilevel.outer import Value
from phiopt.bilevel.records import Record, RecordError, Records
from phiopt.bilevel.search import Evaluation, Search, SearchStatus
from phiopt.bilevel.space import Space
from phiopt.bilevel.trial import Learned, Trial, failure
from phiopt.objective import Lambdas
from phiopt.objective.lambdas import without_traces
from phiopt.solve import Solution, SolveError, Status


class Solved(NamedTuple):
    """A solve at a point: the point's tensors, the solution and E, or why there is no solution."""

    point: Params
    solution: Solution | None = None
    value: Tensor | None = None
    refusal: AdjointError | None = None

    @property
    def outer(self) -> float:
        """E as a number; infinite where there is none, or none that is finite."""
        number = inf if self.value is None else float(self.value.detach())
        return number if isfinite(number) else inf

    def trial(self, again: bool) -> Trial:
        solution = self.solution
        place: dict[str, Any] = {name: value.tolist() for name, value in self.point.items()}
        return Trial(
            lambdas=tuple(place["lambdas"]),
            delta=place.get("delta"),
            theta=place.get("theta"),
            outer=self.outer,
            status=None if solution is None else solution.status,
            gradients=0 if solution is None else solution.stats.gradient,
            again=again,
            error=None if self.refusal is None else str(self.refusal),
        )


@dataclass
class Run:
    """A search in progress.

    Args:
        solve: φ at a point, by an adjoint.
        loss: E, of a solution's parameters and of the student's other tensors.
        adjoint: The search's adjoint.
        seed: The search's seed.
        bar: Updated once for each evaluation that is solved.
        records: The trials on record. Evaluations are read from them as far as possible.
    """

    solve: Callable[[Params, Adjoint | None], Solution]
    loss: Value
    adjoint: Adjoint | None
    seed: int
    bar: Any
    records: Records
    path: list[Trial] = field(default_factory=list)
    best: int | None = None
    solutions: dict[int, Solution] = field(default_factory=dict)
    """The solution of the best trial, by the trial's number."""
    error: AdjointError | None = None

    def through(self, search: Search, space: Space) -> Learned:
        if (recorded := self.records.best) is not None:
            self.solutions[recorded] = self._recalled(
                recorded
            )  # an error in the file is raised at once
        error: Exception | None = None
        try:
            status = search.run(self.evaluate, space, self.seed)
        except AdjointError as raised:
            status, self.error = SearchStatus.NO_DERIVATIVE, raised
        except RecordError:
            raise
        except Exception as raised:
            if self.best is None:
                raise
            status, error = SearchStatus.TRIAL_FAILED, raised
        return self._learned(status, error)

    def _learned(self, status: SearchStatus, error: Exception | None) -> Learned:
        best = None if self.best is None else self.path[self.best]
        differentiated = any(trial.differentiated for trial in self.path)
        lowered = best is not None and not best.at(self.path[0])
        if self.error is not None and error is None:
            if not differentiated and not lowered:
                raise self.error
            error = self.error if status is SearchStatus.NO_DERIVATIVE else None
        if self.best is None or best is None:
            raise FloatingPointError(
                f"outer: its loss is finite nowhere, at none of {len(self.path)} points. Look at "
                "outer.loss and outer.data, or lower the inner learning rate"
            )
        solution = self.solutions.get(self.best) or self._recalled(self.best)
        if solution.status.failed:
            warn(f"learn: {failure(solution.status)}")
        return Learned(
            solution=solution,
            lambdas=without_traces(solution.lambdas),
            delta=best.delta,
            theta=best.theta,
            outer=best.outer,
            start_outer=self.path[0].outer,
            path=self.path,
            status=status,
            error=error,
        )

    def _recalled(self, number: int) -> Solution:
        """The solution of a trial on record, from its file or, if there is no file, solved again. E is computed
        again, to check that the file belongs to the record.
        """
        record = self.records.records[number]
        solution, smooth = self.records.solution(number), self.adjoint is not None
        if solution is None:
            solved = self._solved(record.point, record.trial.again)
        else:
            for value in solution.params.values():
                value.requires_grad_(smooth)
            with torch.set_grad_enabled(smooth):
                solved = Solved(record.point, solution, self._worth(solution))
        self._check_same(number, solved)
        assert solved.solution is not None
        return _plain(solved.solution, record.trial.lambdas)

    def _check_same(self, number: int, solved: Solved) -> None:
        """Refuse a solve whose E is not that of the record."""
        _check_read(solved)
        was = self.records.records[number].trial.outer
        if solved.refusal or solved.outer != was:
            raise self.records.refuse(number, was, solved.outer)

    def evaluate(self, point: Params) -> Evaluation:
        """E at the point. If the solve ends at a saddle or has no derivative, it is repeated from a start nearby."""
        first, status = self._evaluate(point)
        if status is not None and status is not Status.SADDLE:
            return first
        second, _ = self._evaluate(point, again=True)
        return second if second.value < inf else first

    def _evaluate(self, point: Params, again: bool = False) -> tuple[Evaluation, Status | None]:
        """One trial, and the status of its solve; None if the solve raised an `AdjointError`."""
        number = len(self.path)
        asked = Solved(point).trial(again)
        place = {"delta": asked.delta, "theta": asked.theta, "again": again}
        record, solved = self.records.at(number, asked.lambdas, place), None
        if record is None:
            solved = self._solved(point, again)
            record = Record(solved.trial(again))
            if record.trial.status is Status.DATA_FAILED:  # to be tried again, so not kept
                self.path.append(record.trial)
                _check_read(solved)
            better = solved.solution if record.trial.outer < self._lowest() else None
            plain = better and _plain(better, record.trial.lambdas)
            self.records.keep(number, record, plain)
            if plain is not None:
                self.solutions = {number: plain}
            self.bar.update()
            self.bar.set_postfix(outer=record.trial.outer, refresh=False)
        trial = record.trial
        refused = trial.status is None
        # The trial as it was before its derivative was asked for.
        self.path.append(
            replace(trial, differentiated=False, error=trial.error if refused else None)
        )
        if trial.outer < (inf if self.best is None else self.path[self.best].outer):
            self.best = number
        if refused:
            self.error = solved.refusal if solved else AdjointError(trial.error)

        def gradient() -> Params:
            return self._gradient(number, point, again, solved)

        return Evaluation(trial.outer, gradient), trial.status

    def _lowest(self) -> float:
        """E of the best trial so far, and of all trials on record, even if the search has not reached them."""
        recorded = self.records.best
        lowest = inf if self.best is None else self.path[self.best].outer
        return (
            lowest if recorded is None else min(lowest, self.records.records[recorded].trial.outer)
        )

    def _solved(self, point: Params, again: bool) -> Solved:
        smooth = self.adjoint is not None
        tensors = {n: v.detach().clone().requires_grad_(smooth) for n, v in point.items()}
        try:
            solution = self.solve(tensors, Nudged(self.adjoint) if again else self.adjoint)
        except AdjointError as error:
            return Solved(tensors, refusal=error)
        if solution.status is Status.DATA_FAILED:
            return Solved(tensors, solution)
        with torch.set_grad_enabled(smooth):
            return Solved(tensors, solution, self._worth(solution))

    def _worth(self, solution: Solution) -> Tensor:
        """E of the student, some of whose parameters may not have been solved for."""
        student = solution.student
        state = state_of(student)
        beside = {n: v.detach() for n, v in state.items() if n not in solution.params}
        return self.loss(solution.params, beside)

    def _gradient(self, number: int, point: Params, again: bool, solved: Solved | None) -> Params:
        try:
            derivative = self._derivative(number, point, again, solved)
        except AdjointError as error:
            self.error = error
            self.path[number] = replace(self.path[number], error=str(error))
            self.records.keep(number, Record(self.path[number]))
            if again or self.path[number].status is None:
                raise
            return self._evaluate(point, again=True)[0].gradient()
        record = Record(self.path[number]).with_derivative(derivative)
        self.path[number] = record.trial
        self.records.keep(number, record)
        return derivative

    def _derivative(self, number: int, point: Params, again: bool, solved: Solved | None) -> Params:
        """The derivative of E: from the record, from the solve, or from a repetition of the solve."""
        record = self.records.records.get(number)
        if record is not None and record.gradient is not None:
            return record.derivative or {}
        if solved is None:
            if record is not None and record.trial.error is not None:
                raise AdjointError(record.trial.error)
            solved = self._solved(point, again)
            self._check_same(number, solved)
        if solved.value is None:
            raise solved.refusal or AdjointError("the solve gave no value")
        tensors = list(solved.point.values())
        gradients = torch.autograd.grad(
            solved.value, tensors, allow_unused=True, materialize_grads=True
        )
        return dict(zip(solved.point, gradients, strict=True))


def _check_read(solved: Solved) -> None:
    """Raise where the data could not be read."""
    if solved.solution is not None and solved.solution.status is Status.DATA_FAILED:
        raise SolveError(solved.solution) from solved.solution.error


def _plain(solution: Solution, weights: tuple[float, ...]) -> Solution:
    """The solution without a graph, and with λ as numbers."""
    params = {name: p.detach() for name, p in solution.params.items()}
    return replace(solution, params=params, lambdas=Lambdas.of(weights))
