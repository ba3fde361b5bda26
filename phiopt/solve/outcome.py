"""The outcome of a solver: the best iterate, the status of the solve, and its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from enum import Enum
from math import isfinite
from typing import Any

from phiopt._types import Params
from phiopt.objective import Sample


class Status(Enum):
    """How a solve ended. The member's value says what to do."""

    SOLVED = "The gradient norm fell to the tolerance. Nothing to do."
    BUDGET_SPENT = (
        "All steps were taken, as asked; no tolerance was set, so stationarity was not required. "
        "Read the certificate to see how far from it the result is, or give the solver a tol."
    )
    SAMPLE_TOO_SMALL = (
        "The frozen sample was minimised, but less than half of that decrease holds on fresh "
        "draws. Enlarge the sample: more draws, a larger batch_size, more noise samples or probes."
    )
    STEP_LIMIT = (
        "All steps were taken before the gradient norm fell to the tolerance. Give more steps, "
        "a learning rate that decays, larger batches or a larger tol."
    )
    NOISE_FLOOR = (
        "All steps were taken, and the gradient left is within its own sampling error: more steps "
        "of this kind would wander. Enlarge batch_size, noise samples or probes, let the learning "
        "rate decay, or accept a larger tol."
    )
    STALLED = (
        "The objective could be lowered no further, though the gradient norm is above the "
        "tolerance: the limit of rounding, or a kink. Use float64, a smooth activation or a "
        "larger tol."
    )
    SADDLE = (
        "The gradient norm fell to the tolerance where the objective still curves downwards (its "
        "least Hessian eigenvalue is negative): no minimum. Use NewtonCG, which follows negative "
        "curvature, a smaller tol, or another start."
    )
    UNSETTLED = (
        "The gradient norm fell to the tolerance, but the spectral norm's eigenvector was not found to "
        "its own, so that this gradient is inexact (see certificate.curvature_error). Give Spectral "
        "more iterations; where the largest eigenvalues all but coincide, the norm has a kink there: "
        "take Frobenius, or throw=False."
    )
    DIVERGED = (
        "The objective ended above the start's, so the solve went back to the best iterate it had "
        "met, perhaps the start itself. Lower the learning rate, let it decay, or enlarge the "
        "batch."
    )
    NON_FINITE = (
        "The objective or a derivative was NaN or infinite and stayed so after rolling back to the "
        "best iterate with smaller steps; that iterate is returned. Where the start's objective is "
        "finite, lower the learning rate or clip the gradient; else mend the model, the loss or the "
        "data."
    )
    DATA_FAILED = (
        "Reading the data raised an exception midway; the best iterate until then is returned. "
        "See the solution's error, which is also the cause of the SolveError, and mend the data."
    )
    REPORT_FAILED = (
        "The solve ended well, but a number of its report is NaN or infinite, or computing it raised an "
        "exception, so that the result cannot be vouched for. The solution's lost names these numbers; "
        "look for inputs on which the model, the loss, the lift or the neighbourhood are not finite."
    )

    @property
    def failed(self) -> bool:
        """Whether ``initialize(..., throw=True)`` raises."""
        return self not in (Status.SOLVED, Status.BUDGET_SPENT, Status.SAMPLE_TOO_SMALL)


@dataclass(frozen=True)
class Stats:
    """What the solve cost, the certificate apart.

    Args:
        steps: Updates made.
        gradient: Gradients of the objective.
        forward: Forward passes of the student over a batch, one for each noise sample.
        hvp: Hessian-vector products, those inside gradients included. One on a part of a batch
            counts as that part.
        rollbacks: Returns to the best iterate after a non-finite value.
        seconds: Wall-clock time.
        unsettled: Evaluations of `Spectral` whose search ended at its most iterations, before its
            tolerance: value and gradient are inexact there.
    """

    steps: int
    gradient: int
    forward: int
    hvp: float
    rollbacks: int
    seconds: float
    unsettled: int = 0

    def __add__(self, other: Stats) -> Stats:
        """The work of both."""
        return Stats(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __sub__(self, earlier: Stats) -> Stats:
        """The work since ``earlier``."""
        return Stats(**{name: value - getattr(earlier, name) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Outcome:
    """What a `Solver` returns.

    Args:
        params: The best iterate.
        status: How the solve ended.
        objective: L at the best iterate, on the draws by which it was chosen; never above
            ``start_objective``.
        start_objective: L at the start, on the same draws.
        terms: Raw terms at the best iterate, on the same draws.
        start_terms: Raw terms at the start.
        history: One record for each step.
        stats: The cost.
        saa_samples: The draws that were kept for all steps; None if each step had its own.
        error: An exception from reading the data midway, or from computing the report.
    """

    params: Params
    status: Status
    objective: float
    start_objective: float
    terms: dict[str, float]
    start_terms: dict[str, float]
    history: list[dict[str, float]]
    stats: Stats
    saa_samples: list[Sample] | None = None
    error: Exception | None = None

    @property
    def lost(self) -> tuple[str, ...]:
        """Names of the numbers that are NaN or infinite, and of parameters that hold such."""
        return lost(self.params, self._report)

    def vouched(self, certificate: object = None) -> Outcome:
        """This outcome, with a status that is no success where a number of it, or of its certificate,
        is not finite, or where computing the report raised an exception.
        """
        unfit = lost(self.params, {**self._report, "certificate": certificate})
        if (self.error is not None or unfit) and not self.status.failed:
            return replace(self, status=Status.REPORT_FAILED)
        return self

    @property
    def _report(self) -> dict[str, object]:
        return {
            "terms": self.terms,
            "start_terms": self.start_terms,
            "objective": self.objective,
            "start_objective": self.start_objective,
        }


def lost(params: Params, report: Mapping[str, object]) -> tuple[str, ...]:
    """Names of the report's numbers that are NaN or infinite, such as ``terms.noise``, and of parameters
    that hold such.
    """
    unfit = [name for name, value in _numbers(report).items() if not isfinite(value)]
    return (*unfit, *(name for name, p in params.items() if not p.isfinite().all()))


def _numbers(value: Any, name: str = "") -> dict[str, float]:
    """The numbers of a report by their paths."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, tuple):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        parts = [
            _numbers(part, f"{name}.{key}" if name else str(key)) for key, part in value.items()
        ]
        return {key: number for part in parts for key, number in part.items()}
    return {name: float(value)} if isinstance(value, int | float) else {}
