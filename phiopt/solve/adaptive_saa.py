"""Adaptive sample average approximation: the frozen sample grows until its minimiser is good on other draws too."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from phiopt._progress import within
from phiopt._types import Params
from phiopt.objective import Objective, Sample, Samples, Stream
from phiopt.solve.certificate import holds
from phiopt.solve.counted import Counted
from phiopt.solve.outcome import Outcome, Status
from phiopt.solve.saa import SaaSolve, solve_saa

FIRST, LARGEST = 8, 64
"""Draws in the first sample, and in the largest."""
CHECKS = 8
"""Held-out draws on which the decrease is checked."""


def solve_adaptive_saa(
    minimise: Callable[[SaaSolve, int], None],
    objective: Objective,
    start: Params,
    *,
    draws: int | None,
    batch_size: int | None,
    tol: float,
    steps: int,
    seed: int,
    progress: bool,
) -> Outcome:
    """Run ``minimise`` on the mean of the objective over ``draws`` draws.

    With ``draws=None`` the number of draws is found. The sample is doubled until held-out draws show at least half
    of the decrease. The held-out draws have no other use (Shapiro, Dentcheva and Ruszczyński, section 5.3, find the
    size of a sample by such a test). Each solve goes on from the minimiser on the smaller sample. The certificate
    checks the result once more, on fresh draws.
    """
    auto = draws is None and objective.data is not None
    size = (draws or FIRST) if objective.data is not None else 1
    total, begin = None, None

    def read(stream: Stream, numbers: range) -> Samples:
        return objective.samples(start, batch_size, seed, stream, numbers, weighted=True)

    samples = read(Stream.TRAIN, range(size))
    while True:
        outcome = solve_saa(
            minimise,
            objective,
            start,
            samples,
            tol=tol,
            steps=steps - (total.stats.steps if total else 0),
            progress=progress,
            begin=begin,
        )
        total = _after(total, outcome)
        if not auto or outcome.status is not Status.SOLVED:
            return total
        try:
            held_out = read(Stream.HELD_OUT, range(CHECKS))
        except Exception as error:
            return replace(total, status=Status.DATA_FAILED, error=error)
        try:
            with within("validating"):
                total, decreased = _checked(objective, start, total, held_out)
        except KeyboardInterrupt as interrupt:
            return replace(total, status=Status.INTERRUPTED, error=interrupt)
        if decreased or size == LARGEST or total.stats.steps >= steps:
            return total
        try:
            samples = samples + read(Stream.TRAIN, range(size, 2 * size))
        except Exception as error:
            return replace(total, status=Status.DATA_FAILED, error=error)
        size, begin = 2 * size, outcome.params


@torch.no_grad()
def _checked(
    objective: Objective, start: Params, outcome: Outcome, draws: Sequence[Sample]
) -> tuple[Outcome, bool]:
    """The outcome with the work of this check, and whether these draws show its decrease too."""
    counted = Counted(objective)
    values = []
    for params in (start, outcome.params):
        terms = counted.mean_terms(params, draws, objective.active)
        values.append(float(objective.weigh(terms)))
    work = counted.stats(0, 0, 0.0)
    return replace(outcome, stats=outcome.stats + work), holds(outcome, values[0] - values[1])


def _after(before: Outcome | None, outcome: Outcome) -> Outcome:
    """The later outcome, with the work of both."""
    if before is None:
        return outcome
    stats, history = before.stats + outcome.stats, before.history + outcome.history
    return replace(outcome, stats=stats, history=history)
