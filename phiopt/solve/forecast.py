"""How long a solve will take, told before it begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import torch

from phiopt import _progress
from phiopt._types import Params
from phiopt.objective import Objective, Sample, Stream
from phiopt.solve.certificate import DRAWS, LIGHT_GRADIENTS, Level
from phiopt.solve.solver import Solver, TellsWork

LONG = 60.0
"""Seconds from which a solve is worth a line."""
GRADIENT = 3.0
"""Values of L that the time of a gradient is worth, on the draws of a certificate."""


def tell_forecast(
    objective: Objective,
    start: Params,
    fresh: Sequence[Sample],
    *,
    solver: Solver,
    level: Level | None,
    restarts: int,
    seed: int,
) -> None:
    """Where a progress bar is shown, and the solve is expected to take more than a minute, write a line with the time
    and its two largest parts. A gradient and a value of L at the start are timed for that.
    """
    if not _progress.shown() or not isinstance(solver, TellsWork):
        return
    # A loader would give its next batch, and the solve would then begin with another one.
    draws: Sequence[Sample] = fresh[:1]
    if objective.data is None or objective.data.repeatable:
        steps = range(min(objective.interval, 2))
        key = (start, solver.batch_size, seed, Stream.STEP)
        draws = [objective.sample(*key, step, weighted=True) for step in steps]
    if not draws:
        return
    with torch.no_grad(), _progress.within("timing a gradient"):
        seconds = [_timed(lambda: objective.value_and_grad(start, draw)) for draw in draws]  # noqa: B023
        value = _timed(lambda: objective.evaluate(start, (fresh or draws)[0], objective.active))
    # The first step has all terms, the others of an interval do not have those with one.
    interval = objective.interval if len(seconds) > 1 else 1
    gradient = (seconds[0] + (interval - 1) * seconds[-1]) / interval
    work = solver.work(objective)
    parts = {"steps": work.gradients * gradient, "validation": work.values * value}
    if restarts:
        parts["restarts"] = restarts * sum(parts.values())
    if level is not None:
        gradients = LIGHT_GRADIENTS if level == "light" else DRAWS
        parts["certificate"] = 2 * (DRAWS - gradients + gradients * GRADIENT) * value
    total = sum(parts.values())
    if total > LONG:
        largest = sorted(parts, key=lambda name: -parts[name])[:2]
        listed = ", ".join(f"{name} {_duration(parts[name])}" for name in largest)
        _progress.say(f"φ: about {_duration(total)}: {listed}")


def _timed(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return perf_counter() - began


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
