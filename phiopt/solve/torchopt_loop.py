"""The stochastic solver: a TorchOpt gradient transformation driven over draws of the objective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from time import perf_counter
from typing import Any

import torch
import torchopt
from torch import Tensor
from tqdm import tqdm

from phiopt._types import Params
from phiopt._values import count, flag, fraction
from phiopt.derivatives import square_norm
from phiopt.objective import Objective, Sample, Stream
from phiopt.solve.certificate import moments
from phiopt.solve.flat import flattened
from phiopt.solve.normalise import normalised
from phiopt.solve.optimizer import check_optimizer
from phiopt.solve.solution import Outcome, Status, vouched
from phiopt.solve.solver import RETRIES, Counted
from phiopt.solve.stopping import Stationarity

JUDGES = 8
"""Held-out draws by which iterates are compared; always the same ones (common random numbers).
Fewer, and one unlucky curvature probe can decide."""


def default_optimizer(
    steps: int, learning_rate: float = 3e-3, *, every: int = 1, eps_root: float = 0.0
) -> Any:
    """What ``optimizer=None`` is in a solve of so many steps, with a curvature in one of ``every``:
    `decaying_adam` on `normalised` gradients, all in one vector.
    """
    return flattened(normalised(decaying_adam(steps, learning_rate, eps_root), window=every))


def decaying_adam(steps: int, learning_rate: float, eps_root: float = 0.0) -> Any:
    """Adam, its rate kept for the first half of so many steps, so that it gets somewhere, and
    falling linearly to 0 over the second, so that it averages the noise of the gradients.
    """
    falling = (steps + 1) // 2
    rate = torchopt.schedule.linear_schedule(learning_rate, 0.0, falling, steps - falling)
    return torchopt.adam(rate, eps_root=eps_root)


@dataclass(frozen=True)
class TorchOpt:
    """Minimise φ's objective with any optimiser of TorchOpt.

    Args:
        optimizer: A functional gradient transformation, such as ``torchopt.adam(1e-3)`` or
            ``clipped(torchopt.sgd(schedule), 1.0)``; None is
            Adam on `normalised` gradients at 3e-3, which falls to 0 over the second half of the steps.
        steps: Updates at most; default 150.
        batch_size: Examples of D1 to a step, drawn without repeats; None is all of D1. Default 128.
            A ``DataLoader`` gives batches of its own size.
        tol: Stop once the gradient norm is at most ``tol`` times the start's. With fresh draws the
            norm is that of a moving average of gradients, confirmed on the held-out draws. None
            (default) takes all steps, unless the gradient is exactly zero; with a ``tol``, running
            out of steps is a failure (``Status.STEP_LIMIT``, or ``Status.NOISE_FLOOR`` where the
            gradient left cannot be told from its sampling error).
        fresh: True (default): new examples, noise and probes at each step. False: one draw is kept
            for all, and its objective is minimised (sample average approximation); the certificate
            still reports fresh draws.
        check_every: Steps between judgements of the iterate on held-out draws; default 50.

    The best iterate judged is returned, on held-out draws, or with ``fresh=False`` on the one draw.
    A non-finite objective or gradient sends the solve back to the best iterate with a new optimiser
    state and half the step, three times at most. An exception while a step's data are read ends
    the solve with ``Status.DATA_FAILED`` and the best iterate; one in the model or the loss goes
    through.

    Raises:
        ValueError: ``steps``, ``batch_size`` or ``check_every`` < 1, ``tol`` outside (0, 1).
        TypeError: ``optimizer`` is no gradient transformation.

    Examples:
        >>> TorchOpt(torchopt.sgd(0.1, momentum=0.9), steps=300, batch_size=64).steps
        300
    """

    optimizer: Any = None
    steps: int = 150
    batch_size: int | None = 128
    tol: float | None = None
    fresh: bool = True
    check_every: int = 50

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
        began = perf_counter()
        with torch.no_grad():
            run = _Run(self, objective, start, seed)
            with tqdm(total=self.steps, desc="φ", disable=None if progress else True) as bar:
                status = run.through(bar)
            return run.outcome(status, perf_counter() - began)


class _Run:
    """One solve in progress."""

    def __init__(self, solver: TorchOpt, objective: Objective, start: Params, seed: int) -> None:
        self.solver, self.start, self.seed = solver, start, seed
        self.objective = Counted(objective)
        self.optimizer = solver.optimizer or default_optimizer(solver.steps, every=objective.every)
        self.params = self.best = start
        self.state = self.optimizer.init(start)
        self.history: list[dict[str, float]] = []
        self.rollbacks = 0
        self.error: Exception | None = None
        if solver.fresh:
            self.judges = [self.sample(Stream.HELD_OUT, i) for i in range(JUDGES)]
        else:
            self.judges = [self.sample(Stream.TRAIN, 0)]
        self.best_value, self.best_terms = self.start_value, self.start_terms = self.judged(start)
        self.last_value = self.start_value
        self.stationarity = Stationarity(
            self.objective, start, solver.tol or 0.0, smooth=solver.fresh, confirm=self.judges
        )

    def through(self, bar: Any) -> Status:
        """Take the steps; the verdict."""
        if not isfinite(self.start_value):
            return Status.NON_FINITE
        for step in range(self.solver.steps):
            try:
                sample = self.sample(Stream.STEP, step) if self.solver.fresh else self.judges[0]
            except Exception as error:
                self.error = error
                return Status.DATA_FAILED
            value, terms, gradient = self.objective.value_and_grad(self.params, sample)
            record = self.recorded(value, terms, gradient)
            bar.update()
            if not _finite(record):
                if self.rollbacks == RETRIES:
                    return Status.NON_FINITE
                self.roll_back()
                continue
            if not self.solver.fresh:
                self.consider(self.params, float(value), terms)
            if self.stationarity.reached(self.params, gradient, record["gradient_norm"]):
                return self.accepted()
            self.update(gradient)
            if (step + 1) % self.solver.check_every == 0 or step + 1 == self.solver.steps:
                record["held_out"], judged = self.judged(self.params)
                self.consider(self.params, record["held_out"], judged)
        return self.spent()

    def spent(self) -> Status:
        """All steps are taken."""
        if not self.last_value <= self.start_value:  # NaN, too
            return Status.DIVERGED
        if self.best_value == self.start_value:
            return Status.STALLED if _finite(self.history[-1]) else Status.NON_FINITE
        if self.solver.tol is None:
            return Status.BUDGET_SPENT
        left = moments(self.objective, self.best, self.judges)
        noisy = left.gradient_norm <= left.gradient_error
        return Status.NOISE_FLOOR if noisy else Status.STEP_LIMIT

    def sample(self, stream: Stream, step: int) -> Sample:
        size = self.solver.batch_size
        return self.objective.objective.sample(self.start, size, self.seed, stream, step)

    def judged(self, params: Params) -> tuple[float, dict[str, Tensor]]:
        objective = self.objective.objective
        terms = self.objective.mean_terms(params, self.judges, objective.lambdas.active)
        return float(objective.weigh(terms)), terms

    def consider(self, params: Params, value: float, terms: dict[str, Tensor]) -> None:
        self.last_value = value
        if value < self.best_value:  # False for NaN
            self.best, self.best_value, self.best_terms = params, value, terms

    def recorded(
        self, value: Tensor, terms: dict[str, Tensor], gradient: Params
    ) -> dict[str, float]:
        numbers = {"objective": value, **terms, "gradient_norm": square_norm(gradient).sqrt()}
        values = torch.stack(list(numbers.values())).tolist()  # one transfer from the device
        self.history.append(dict(zip(numbers, values, strict=True)))
        return self.history[-1]

    def update(self, gradient: Params) -> None:
        updates, self.state = self.optimizer.update(
            gradient, self.state, params=self.params, inplace=False
        )
        if self.rollbacks:
            updates = {name: update * 0.5**self.rollbacks for name, update in updates.items()}
        self.params = torchopt.apply_updates(self.params, updates, inplace=False)

    def roll_back(self) -> None:
        self.rollbacks += 1
        self.params = self.best
        self.state = self.optimizer.init(self.params)
        self.stationarity.forget()

    def accepted(self) -> Status:
        """A stationary point above the start is not what was asked for."""
        value, terms = self.judged(self.params)
        if value > self.start_value:
            return Status.DIVERGED
        self.best, self.best_value, self.best_terms = self.params, value, terms
        return Status.SOLVED

    def outcome(self, status: Status, seconds: float) -> Outcome:
        work = self.objective
        found = Outcome(
            params={name: value.clone() for name, value in self.best.items()},
            status=status,
            objective=self.best_value,
            start_objective=self.start_value,
            terms=work.all_terms(self.best, self.judges, self.best_terms),
            start_terms=work.all_terms(self.start, self.judges, self.start_terms),
            history=self.history,
            stats=work.stats(len(self.history), self.rollbacks, seconds),
            frozen=None if self.solver.fresh else self.judges,
        )
        return vouched(replace(found, error=self.error or work.error))


def _finite(record: dict[str, float]) -> bool:
    return all(map(isfinite, record.values()))
