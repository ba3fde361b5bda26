"""Sample average approximation (SAA): SciPy minimises a function of one vector on a frozen sample.

The expectation in L is replaced by the mean over draws that are kept for the whole solve (Shapiro,
Dentcheva and Ruszczyński, Lectures on Stochastic Programming, chapter 5). This mean is a deterministic
function with a definite minimiser. SciPy never sees a value that is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import torch

from phiopt._progress import phase, showing
from phiopt._types import Params
from phiopt._vector import to_params, to_vector
from phiopt.objective import Objective, Sample
from phiopt.solve.certificate import Moments, moments
from phiopt.solve.counted import Counted
from phiopt.solve.outcome import Outcome, Status
from phiopt.solve.solver import RETRIES
from phiopt.solve.spectrum import MeanHessian

PATIENCE = 30
"""Evaluations without a lower value after which a solve has stalled. SciPy's line searches take up to 20."""
SHRINKAGE = 0.1
"""Factor of the unit of length after a roll-back."""
ROUNDING = 1e3
"""Units in the last place below which a difference of two values counts as rounding."""

Vector: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


class Stop(Exception):
    """Ends SciPy's loop from within one of its calls."""

    def __init__(self, status: Status) -> None:
        self.status = status


@dataclass(frozen=True)
class Point:
    """An evaluated iterate: w and ∇L(w) as parameters and as vectors, and L(w)."""

    params: Params
    at: Moments
    w: Vector
    gradient: Vector
    value: float

    @classmethod
    def of(cls, params: Params, at: Moments) -> Point:
        return cls(params, at, _numpy(params), _numpy(at.gradient), at.value)

    def measured_from(self, other: Point) -> Point:
        """This point. Where rounding hides the difference of the two values, L(w) is computed from the other point
        by the trapezoid rule.

        Near a minimum L falls with the square of the distance, and the gradient with the distance itself. So
        gradients still show the way down where values no longer do (Hager and Zhang 2005, section 1).
        """
        if abs(self.at.value - other.at.value) > self._rounding(other):
            return self
        rise = float((self.gradient + other.gradient) @ (self.w - other.w)) / 2
        return replace(self, value=other.value + rise)

    def is_progress_on(self, other: Point) -> bool:
        """Whether the gradient norm is at most half of the other's, or the value is lower. Then it is worth going on
        from here.
        """
        halved = self.at.gradient_norm <= 0.5 * other.at.gradient_norm
        return halved or self.value < other.value - self._rounding(other)

    def _rounding(self, other: Point) -> float:
        unit = torch.finfo(next(iter(self.params.values())).dtype).eps
        return ROUNDING * unit * abs(other.at.value)

    @property
    def record(self) -> dict[str, float]:
        return {"objective": self.value, **self.at.terms, "gradient_norm": self.at.gradient_norm}


class SaaSolve:
    """One solve in progress, as SciPy sees it: (L(w) − L(c)) / unit, w = c + scale · z.

    SciPy's tests compare absolute numbers and differences of values. So whenever SciPy gives up after progress,
    a new centre c and a new unit give z = 0 the value 0 and the gradient norm 1. After a value that is not finite
    SciPy starts again from the best iterate, without its model of the curvature. The unit of length is then a
    tenth of what it was, so that the first steps are shorter.
    """

    def __init__(
        self,
        objective: Objective,
        start: Params,
        samples: Sequence[Sample],
        tol: float,
        steps: int,
        begin: Params | None = None,
    ) -> None:
        self.objective = Counted(objective)
        self.samples, self.tol, self.steps = samples, tol, steps
        self.start = self.best = Point.of(start, moments(self.objective, start, samples))
        if begin is not None:
            first = Point.of(begin, moments(self.objective, begin, samples))
            if first.value < self.start.value:  # False for NaN
                self.best = first
        self.scale = 1.0
        self.idle = self.rollbacks = 0
        self.history: list[dict[str, float]] = []
        self.interrupt: KeyboardInterrupt | None = None
        self._hessian: tuple[Vector, MeanHessian] | None = None

    def through(self, minimise: Callable[[SaaSolve, int], None], bar: Any) -> Status:
        """Call ``minimise(self, steps)``, and again from the best iterate where necessary. An interrupt ends it."""
        self.bar = bar
        try:
            return self._through(minimise)
        except KeyboardInterrupt as interrupt:
            self.interrupt = interrupt
            return Status.INTERRUPTED

    def _through(self, minimise: Callable[[SaaSolve, int], None]) -> Status:
        if not _finite(self.start.at):
            return Status.NON_FINITE
        if self.start.at.gradient_norm == 0:
            return Status.SOLVED
        for _ in range(self.steps + RETRIES):
            self._centre()
            try:
                minimise(self, self.steps - len(self.history))
            except Stop as stop:
                if stop.status is not Status.NON_FINITE or self.rollbacks == RETRIES:
                    return stop.status
                self.rollbacks += 1
                self.idle = 0
                self.scale *= SHRINKAGE
                continue
            if not self.best.is_progress_on(self.centre):
                return Status.STALLED
        return Status.STEP_LIMIT

    def value_and_grad(self, z: Vector) -> tuple[float, Vector]:
        """The value and its gradient in z. Ends the solve at a stationary point."""
        params = self._like(self.centre.w + self.scale * z)
        point = Point.of(params, moments(self.objective, params, self.samples))
        if not _finite(point.at):
            raise Stop(Status.NON_FINITE)
        point = point.measured_from(self.best)
        self.idle += 1
        if point.value < self.best.value:
            self.best, self.idle = point, 0
        stationary = point.at.gradient_norm <= self.tol * self.start.at.gradient_norm
        if stationary and point.value <= self.start.value:
            self.best = point
            raise Stop(Status.SOLVED)
        if self.idle >= PATIENCE:
            raise Stop(Status.STALLED)
        value = (point.value - self.centre.value) / self.unit
        return value, self.scale / self.unit * point.gradient

    def hvp(self, z: Vector, direction: Vector) -> Vector:
        """The Hessian in z times the direction."""
        if self._hessian is None or not np.array_equal(self._hessian[0], z):
            params = self._like(self.centre.w + self.scale * z)
            self._hessian = (z.copy(), MeanHessian(self.objective, params, self.samples))
        product = _numpy(self._hessian[1](self._like(direction)))
        if not np.isfinite(product).all():
            raise Stop(Status.NON_FINITE)
        return self.scale**2 / self.unit * product

    def stepped(self, z: Vector) -> None:
        """SciPy has taken a step."""
        self.history.append(self.best.record)
        self.bar.update()
        if len(self.history) >= self.steps:
            raise Stop(Status.STEP_LIMIT)

    def outcome(self, status: Status, seconds: float) -> Outcome:
        work, best, start = self.objective, self.best, self.start
        outcome = Outcome(
            params={name: value.clone() for name, value in best.params.items()},
            status=status,
            objective=best.value,
            start_objective=start.value,
            terms=best.at.terms,
            start_terms=start.at.terms,
            history=self.history,
            stats=work.stats(len(self.history), self.rollbacks, seconds),
            saa_samples=self.samples,
            error=self.interrupt,
        )
        return outcome.vouched()

    def _centre(self) -> None:
        self.centre = self.best
        self.unit = self.scale * self.best.at.gradient_norm
        self._hessian = None

    def _like(self, vector: Vector) -> Params:
        first = next(iter(self.start.params.values()))
        return to_params(torch.from_numpy(vector).to(first.device, first.dtype), self.start.params)


def solve_saa(
    minimise: Callable[[SaaSolve, int], None],
    objective: Objective,
    start: Params,
    samples: Sequence[Sample],
    *,
    tol: float,
    steps: int,
    progress: bool,
    begin: Params | None = None,
) -> Outcome:
    """Run ``minimise`` on the mean of the objective over the samples, from ``begin`` if that is better than the
    start.
    """
    began = perf_counter()
    with torch.no_grad(), showing(progress) as bar:
        phase("solving", steps)
        run = SaaSolve(objective, start, samples, tol, steps, begin)
        status = run.through(minimise, bar)
        return run.outcome(status, perf_counter() - began)


def _numpy(params: Params) -> Vector:
    return to_vector(params).detach().double().cpu().numpy()


def _finite(at: Moments) -> bool:
    return all(map(isfinite, (at.value, at.gradient_norm, *at.terms.values())))
