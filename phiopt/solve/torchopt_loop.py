"""The stochastic solver: steps of a TorchOpt gradient transformation on draws of the objective."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from phiopt._checks import count, flag, fraction
from phiopt._progress import phase, showing
from phiopt._types import Params
from phiopt.objective import Objective
from phiopt.optimizers import check_optimizer, default_optimizer
from phiopt.solve.checkpoint import Checkpoint
from phiopt.solve.loop import Loop
from phiopt.solve.outcome import Outcome
from phiopt.solve.solver import Evaluations
from phiopt.solve.solves import COMPARED_ON, OneSolve, Solves


@dataclass(frozen=True)
class TorchOpt:
    """Minimise φ's objective with any optimiser of TorchOpt.

    Args:
        optimizer: A functional gradient transformation, such as ``torchopt.adam(1e-3)`` or
            ``clipped(torchopt.sgd(schedule), 1.0)``. None: Adam on `normalised` gradients, at a rate of 3e-3
            that falls to 0 over the second half of the steps.
        steps: Updates at most; default 150.
        batch_size: Examples of D1 to a step, drawn without repeats; None is all of D1. Default 128.
            A ``DataLoader`` gives batches of its own size. If the noise term and another term over the data have
            weight, each gets a random half of the batch, unless it is all of D1 (docs/cost.md).
        tol: Stop once the gradient norm is at most ``tol`` times the start's. With fresh draws the norm is that of
            a moving average of gradients, confirmed on the held-out draws. If the steps run out before, the solve
            has failed: ``Status.STEP_LIMIT``, or ``Status.NOISE_FLOOR`` where the gradient is within its sampling
            error. None (default): take all steps, unless the gradient is exactly zero.
        fresh: True (default): new examples, noise and probes at each step. False: one draw is kept for all steps,
            and its objective is minimised (sample average approximation). The certificate still uses fresh draws.
        check_every: Steps between evaluations of the iterate on the validation samples; default 75.

    The validation samples are four held-out draws, or with ``fresh=False`` the kept draw. The iterate with
    the lowest value on them is returned. Where the last one seems to lie above the start, four more draws decide
    together with these. After a non-finite objective or gradient the solve goes back to
    the best iterate, with a new optimiser state and half the step, three times at most. An exception while
    a step's data are read ends the solve with ``Status.DATA_FAILED`` and the best iterate. An exception in
    the model or the loss is raised.

    Raises:
        ValueError: ``steps``, ``batch_size`` or ``check_every`` < 1, ``tol`` outside (0, 1).
        TypeError: ``optimizer`` is no gradient transformation.

    Examples:
        >>> import torchopt
        >>> TorchOpt(torchopt.sgd(0.1, momentum=0.9), steps=300, batch_size=64).steps
        300
    """

    optimizer: Any = None
    steps: int = 150
    batch_size: int | None = 128
    tol: float | None = None
    fresh: bool = True
    check_every: int = 75

    def __post_init__(self) -> None:
        count("steps", self.steps)
        count("check_every", self.check_every)
        if self.batch_size is not None:
            count("batch_size", self.batch_size)
        if self.tol is not None:
            fraction("tol", self.tol)
        flag("fresh", self.fresh)
        check_optimizer(self.optimizer)

    def solve(
        self, objective: Objective, start: Params, *, seed: int = 0, progress: bool = False
    ) -> Outcome:
        """See `Solver`. Runs without recording a graph: the result does not require grad."""
        return self.solve_kept(objective, start, seed=seed, progress=progress)

    def solve_kept(
        self,
        objective: Objective,
        start: Params,
        *,
        seed: int,
        progress: bool,
        checkpoint: Checkpoint | None = None,
    ) -> Outcome:
        """See `KeepsState`."""
        began = perf_counter()
        with showing(progress) as bar:
            phase("validating")
            with torch.no_grad():
                solve = OneSolve(
                    objective,
                    start,
                    seed,
                    self.transformation(objective.interval),
                    batch_size=self.batch_size,
                    fresh=self.fresh,
                )
            (outcome,) = self.drive(solve, began, bar, checkpoint)
        return outcome

    def work(self, objective: Objective) -> Evaluations:
        """See `TellsWork`."""
        validations = 1 + -(-self.steps // self.check_every)
        return Evaluations(self.steps, validations * (COMPARED_ON if self.fresh else 1))

    @property
    def apart_reason(self) -> str:
        """See `SolvesMany`."""
        return "must have fresh draws and no tol" if self.tol is not None or not self.fresh else ""

    def transformation(self, every: int) -> Any:
        """See `SolvesMany`."""
        return self.optimizer or default_optimizer(self.steps, every=every)

    @torch.no_grad()
    def drive(
        self, solves: Solves, began: float, bar: Any, checkpoint: Checkpoint | None = None
    ) -> list[Outcome]:
        """See `SolvesMany`. A checkpoint is for one solve alone."""
        loop = Loop(
            solves,
            steps=self.steps,
            check_every=self.check_every,
            tol=self.tol or 0.0,
            fresh=self.fresh,
        )
        if checkpoint is None:
            phase("solving", self.steps)
            loop.run(bar)
            return loop.outcomes(perf_counter() - began)
        with checkpoint.of(loop):
            phase("solving", self.steps, done=loop.step)
            loop.run(bar)
        return loop.outcomes(checkpoint.seconds())
