"""The outcome of a solver: the best iterate, the status of the solve, and its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        "All steps were taken, as asked. This is how a solve without a tol ends, and nothing went wrong. The "
        "certificate says how near to stationary the result is; give the solver a tol to ask for more."
    )
    SAMPLE_TOO_SMALL = (
        "The frozen sample was minimised, but fresh draws show less than half of that "
        "decrease. Enlarge the sample: more draws, a larger batch_size, more noise samples or probes."
    )
    STEP_LIMIT = (
        "All steps were taken before the gradient norm fell to the tolerance. Give more steps, "
        "a learning rate that decays, larger batches or a larger tol."
    )
    NOISE_FLOOR = (
        "All steps were taken, and the gradient that is left is within two standard errors of 0: more "
        "steps of this kind would go nowhere. Enlarge batch_size, noise samples or probes, let the learning "
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
        "The gradient norm fell to the tolerance, but the search for the spectral norm's eigenvector did not "
        "reach its own, so that this gradient is inexact (see certificate.curvature_error). Give Spectral "
        "more iterations. Where the largest eigenvalues all but coincide the norm has a kink: "
        "take Frobenius, or throw=False."
    )
    DIVERGED = (
        "The objective ended above the start's, so the best iterate is returned, perhaps the start itself. "
        "Lower the learning rate, let it decay, or enlarge the batch."
    )
    NON_FINITE = (
        "The objective or a derivative was NaN or infinite, and again after a return to the best iterate with "
        "smaller steps. That iterate is returned. If the start's objective is finite, lower the learning rate "
        "or clip the gradient; else mend the model, the loss or the data."
    )
    DATA_FAILED = (
        "Reading the data raised an exception during the solve. The best iterate until then is returned. "
        "The exception is the solution's error, and the cause of the SolveError. Mend the data."
    )
    INTERRUPTED = (
        "The call was interrupted. The best iterate until then is returned. With checkpoint=PATH the same call goes "
        "on where it was, by resume=PATH. Else solve again from the best iterate: "
        "start=dict(solution.student.named_parameters()), or give the solver fewer steps."
    )
    REPORT_FAILED = (
        "The solve ended well, but a number of its report is NaN or infinite, or computing the report raised an "
        "exception. So the result cannot be trusted. The solution's lost names these numbers. Look for inputs "
        "on which the model, the loss, the lift or the neighbourhood are not finite."
    )

    @property
    def failed(self) -> bool:
        """Whether ``initialize(..., throw=True)`` raises."""
        return self not in (Status.SOLVED, Status.BUDGET_SPENT, Status.SAMPLE_TOO_SMALL)


@dataclass(frozen=True)
class Stats:
    """The cost of a solve, without that of the certificate.

    Args:
        steps: Updates made.
        gradient: Gradients of the objective.
        forward: Forward passes of the student over a batch, one for each noise sample.
        hvp: Hessian-vector products, also those inside gradients. A pass or product on a part of a batch counts as
            that part.
        rollbacks: Returns to the best iterate after a non-finite value.
        seconds: Wall-clock time.
        unsettled: Evaluations of `Spectral` whose search ran out of iterations before its tolerance. Their
            value and gradient are inexact.
    """

    steps: int
    gradient: int
    forward: float
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
        objective: L at the best iterate, on the draws by which iterates are compared; never above
            ``start_objective``.
        start_objective: L at the start, on the same draws.
        terms: Raw terms at the best iterate, on the same draws.
        start_terms: Raw terms at the start.
        history: One record for each step.
        stats: The cost.
        saa_samples: The draws that were kept for all steps; None if each step had its own.
        error: An exception from reading the data during the solve, or from computing the report, or the interrupt
            that ended the solve.
    """

    params: Params
    status: Status
    objective: float
    start_objective: float
    terms: dict[str, float]
    start_terms: dict[str, float]
    history: list[dict[str, float]]
    stats: Stats
    saa_samples: Sequence[Sample] | None = None
    error: BaseException | None = None

    @property
    def lost(self) -> tuple[str, ...]:
        """Names of the numbers that are NaN or infinite, and of parameters that hold such."""
        return lost(self.params, self._report)

    def vouched(self, certificate: object = None) -> Outcome:
        """This outcome. Its status is no success if a number of the outcome or of its certificate is not finite,
        or if computing the report raised an exception.
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
    """Names of the report's numbers that are NaN or infinite, such as ``terms.noise``, and of parameters that hold
    such numbers.
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
