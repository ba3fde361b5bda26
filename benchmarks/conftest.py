"""Figures are ratios within one run: the same machine, load and threads for both sides."""

import statistics
from collections.abc import Callable
from time import perf_counter

import pytest
import torch


def interleaved(
    calls: dict[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, float]:
    """Median seconds of each call; the calls take turns, so that a busy moment hits all of them.

    With ``time.process_time`` as the clock, the waiting for a processor does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = clock()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(clock() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
