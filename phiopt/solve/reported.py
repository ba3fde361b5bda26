"""What is measured of a solve's result: restarts, the certificate, and the terms without weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from phiopt._progress import phase
from phiopt._types import Params
from phiopt.objective import Objective, Sample
from phiopt.solve.certificate import Certificate, Level, certify
from phiopt.solve.outcome import Outcome, Status
from phiopt.solve.restarts import restarted
from phiopt.solve.solver import Solver
from phiopt.solve.unweighted import NO_DERIVATIVES, with_all_terms


class Reported(NamedTuple):
    """The outcome with all that was measured.

    Args:
        outcome: Its status tells of a failure of the measurements too.
        certificate: None if none was asked for, or after an interrupt.
        left_out: Terms that could not be computed, with the reason.
    """

    outcome: Outcome
    certificate: Certificate | None
    left_out: dict[str, str]


def reported(
    outcome: Outcome,
    params: Params,
    objective: Objective,
    start: Params,
    fresh: Sequence[Sample],
    *,
    level: Level | None,
    solver: Solver,
    restarts: int,
    seed: int,
    progress: bool,
    third_derivatives: Callable[[], bool],
    left_out: Mapping[str, str],
) -> Reported:
    """Measure a result. After an interrupt nothing more is measured, and the outcome is kept.

    Args:
        outcome: That of the solver.
        params: w1, off any graph.
        objective: L.
        start: w0.
        fresh: The draws of the certificate, from `fresh_draws`.
        level: How much the certificate measures.
        solver: It solves from other starts too.
        restarts: How many other starts.
        seed: Seed of these starts and of the spectrum.
        progress: Whether to show a progress bar.
        third_derivatives: Says whether the student and the loss have them.
        left_out: Terms that are known not to be computable.
    """
    reasons = dict(left_out)
    if outcome.status is Status.INTERRUPTED:
        return Reported(outcome, None, reasons)
    certificate = None
    try:
        others, error = restarted(solver, objective, start, restarts, seed, progress)
        if isinstance(error, KeyboardInterrupt):
            raise error
        if error is not None:
            outcome = replace(outcome, status=Status.DATA_FAILED, error=error)
        if level is not None:
            # The spectrum shows whether a stationary point is a minimum. It can only be one of the frozen sample.
            stationary = outcome.status is Status.SOLVED and third_derivatives()
            curved_on = (outcome.saa_samples or fresh) if stationary else None
            phase("certifying", 2)  # w0 and w1
            certificate = certify(
                objective,
                start,
                params,
                fresh,
                level,
                curved_on=curved_on,
                restarts=others,
                seed=seed,
            )
        if level == "full":
            if not third_derivatives():
                reasons |= dict.fromkeys(objective.beyond_gradient, NO_DERIVATIVES)
            outcome = with_all_terms(outcome, objective, start, params, fresh, reasons)
    except KeyboardInterrupt as interrupt:
        return Reported(replace(outcome, status=Status.INTERRUPTED, error=interrupt), None, reasons)
    return Reported(outcome, certificate, reasons)
