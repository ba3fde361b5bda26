"""What a solve will cost, told before it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
import torchopt
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from phiopt import _progress
from phiopt._printed import Printed
from phiopt._types import Params
from phiopt.objective import Objective, Sample, Stream
from phiopt.solve.certificate import DRAWS, LIGHT_GRADIENTS, Level
from phiopt.solve.solver import Solver, SolvesMany, TellsWork

LONG = 60.0
"""Seconds from which a solve is worth a line."""
GRADIENT = 3.0
"""Values of L that the time of a gradient is worth, on the draws of a certificate."""
COPIES = {True: 15.0, False: 14.0}
"""Copies of the parameters that a whole call holds at its peak beside activations, with and without a term of third
derivatives: the student, w0, the best and the present iterate, Adam's two averages, a gradient, and the numbers of an
update or a Hessian-vector product (docs/cost.md)."""


@dataclass(frozen=True, repr=False)
class CostEstimate(Printed):
    """What a call of `initialize` is expected to cost.

    Args:
        seconds: By part: "checks and start" (measured, since they are done), "steps", "validation", "certificate" and
            "restarts".
        memory: Peak of the tensors, in bytes, without the data and the given models; None for solvers other than
            `TorchOpt`.
        parameters: The number of parameters that are solved for.
    """

    seconds: Mapping[str, float]
    memory: int | None
    parameters: int

    @property
    def total(self) -> float:
        """Seconds of the whole call."""
        return sum(self.seconds.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {duration(value)}" for name, value in self.seconds.items())
        memory = "" if self.memory is None else f"; {self.memory / 2**20:.0f} MiB of tensors"
        return f"about {duration(self.total)}: {parts}{memory}; {self.parameters:,} parameters"


def estimate(
    objective: Objective,
    start: Params,
    fresh: Sequence[Sample],
    *,
    solver: Solver,
    level: Level | None,
    restarts: int,
    seed: int,
    posing: float,
) -> CostEstimate:
    """The cost of a solve. A gradient of a step, after one to warm up, an update, a value and a gradient of the
    certificate are timed.

    Args:
        objective: L.
        start: w0.
        fresh: Draws of a certificate.
        solver: One that is `TellsWork`.
        level: How much the certificate measures.
        restarts: Solves from other starts.
        seed: Seed of the draws.
        posing: Seconds that the checks and the start took.

    Raises:
        TypeError: ``solver`` does not tell its work.
    """
    if not isinstance(solver, TellsWork):
        raise TypeError(
            f"solver: got {type(solver).__name__}, must tell its evaluations by a method work(); time a short solve"
        )
    draws = _draws(objective, start, fresh, solver, seed)
    with torch.no_grad():
        saved = [_saved(partial(objective.value_and_grad, start, draws[0]), start)]
        measured, certified = _measured(objective, start, draws, fresh, solver), 0.0
        if level is not None:
            gradient = partial(objective.value_and_grad, start, fresh[0])
            certified = _timed(lambda: saved.append(_saved(gradient, start)))
    parts = {"checks and start": posing}
    parts |= _parts(objective, solver, measured, certified, level, restarts)
    size = sum(p.numel() * p.element_size() for p in start.values())
    third = any(name in objective.active for name in objective.beyond_gradient)
    memory = int(COPIES[third] * size) + max(saved)
    return CostEstimate(
        parts,
        memory if isinstance(solver, SolvesMany) else None,
        sum(p.numel() for p in start.values()),
    )


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
    draws = _draws(objective, start, fresh, solver, seed)
    if not draws:
        return
    with torch.no_grad(), _progress.within("timing a gradient"):
        measured = _measured(objective, start, draws, fresh or draws, solver)
    parts = _parts(objective, solver, measured, GRADIENT * measured[1], level, restarts)
    total = sum(parts.values())
    if total > LONG:
        largest = sorted(parts, key=lambda name: -parts[name])[:2]
        listed = ", ".join(f"{name} {duration(parts[name])}" for name in largest)
        _progress.say(f"φ: about {duration(total)}: {listed}")


def _draws(
    objective: Objective, start: Params, fresh: Sequence[Sample], solver: Solver, seed: int
) -> Sequence[Sample]:
    """Draws of the first steps. A loader would give its next batch, and the solve would then begin with another one. So
    with a loader the draws are of the certificate.
    """
    if objective.data is not None and not objective.data.repeatable:
        return fresh[:1]
    key = (start, solver.batch_size, seed, Stream.STEP)
    steps = range(min(objective.interval, 2))
    return [objective.sample(*key, step, weighted=True) for step in steps]


def _measured(
    objective: Objective,
    start: Params,
    draws: Sequence[Sample],
    fresh: Sequence[Sample],
    solver: Solver,
) -> tuple[float, float]:
    """Seconds of a step, the mean over an interval of steps, and of a value."""
    seconds = [_timed(partial(objective.value_and_grad, start, draw)) for draw in draws]
    # The first step has all terms, the others of an interval do not have those with one.
    interval = objective.interval if len(seconds) > 1 else 1
    step = (seconds[0] + (interval - 1) * seconds[-1]) / interval
    if isinstance(solver, SolvesMany):
        optimizer = solver.transformation(objective.interval)
        state = optimizer.init(start)

        def update() -> None:
            updates, _ = optimizer.update(start, state, params=start, inplace=False)
            torchopt.apply_updates(start, updates, inplace=False)

        step += _timed(update)
    return step, _timed(lambda: objective.evaluate(start, fresh[0], objective.active))


def _parts(
    objective: Objective,
    solver: TellsWork,
    measured: tuple[float, float],
    certified: float,
    level: Level | None,
    restarts: int,
) -> dict[str, float]:
    """Seconds of the parts of a solve. A gradient of the certificate takes ``certified``."""
    step, value = measured
    work = solver.work(objective)
    parts = {"steps": work.gradients * step, "validation": work.values * value}
    if restarts:
        parts["restarts"] = restarts * sum(parts.values())
    if level is not None:
        gradients = LIGHT_GRADIENTS if level == "light" else DRAWS
        parts["certificate"] = 2 * ((DRAWS - gradients) * value + gradients * certified)
    return parts


def _timed(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return perf_counter() - began


def _saved(call: Callable[[], Any], params: Params) -> int:
    """Bytes that autograd keeps for backward passes in a call, each storage once, without those of the size of a
    parameter. The call warms up what follows.
    """
    storages: dict[int, int] = {}
    own = {p.untyped_storage().nbytes() for p in params.values()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = 0 if storage.nbytes() in own else storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(storages.values())


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
