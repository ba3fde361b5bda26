"""The loop of the stochastic solver, over one solve or many: steps, validation, roll-back, final status."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from phiopt._progress import within
from phiopt._types import Params
from phiopt.solve.certificate import moments
from phiopt.solve.outcome import Outcome, Status
from phiopt.solve.solver import RETRIES
from phiopt.solve.solves import Solves, Validated
from phiopt.solve.stopping import Stationarity


class Loop:
    """Solves in progress.

    For each solve the best iterate on the validation samples is kept. After a step with a number that is not finite
    the solve goes back to it, with a new optimiser state and half the step. Solves do not affect each other. All
    take their steps together until the last has ended.

    Args:
        solves: One or many.
        steps: Updates at most.
        check_every: Steps between two evaluations on the validation samples.
        tol: Tolerance of the gradient norm, relative to the start's. 0 stops at exactly zero.
        fresh: Whether each step has a sample of its own.

    ``step`` counts the steps so far. ``after_step`` is called after each, with its draw.
    """

    def __init__(
        self, solves: Solves, *, steps: int, check_every: int, tol: float, fresh: bool
    ) -> None:
        self.solves, self.steps, self.check_every = solves, steps, check_every
        self.tol, self.fresh = tol, fresh
        self.indices = range(len(solves))
        self.params = self.best = solves.start
        self.state = solves.init(solves.start)
        start = solves.validate(solves.start)
        self.start_values, self.start_terms = start.values, start.terms
        self.best_values, self.best_terms = list(start.values), start.terms
        self.last_values = list(start.values)
        self.histories: list[list[dict[str, float]]] = [[] for _ in self.indices]
        self.rollbacks = [0 for _ in self.indices]
        self.statuses: list[Status | None] = [None for _ in self.indices]
        self.work = [solves.stats(index) for index in self.indices]
        self.rules: dict[int, Stationarity] = {}
        self.error: BaseException | None = None
        self.step = 0
        self.after_step: Callable[[Any], None] = lambda draw: None

    def run(self, bar: Any) -> None:
        """Take the steps, until each solve has a status. ``bar`` shows the number of steps. An interrupt ends all
        solves.
        """
        try:
            self._run(bar)
        except KeyboardInterrupt as interrupt:
            self.interrupt(interrupt)

    def interrupt(self, interrupt: KeyboardInterrupt) -> None:
        """End all solves."""
        self.error = interrupt
        for index in self.indices:
            self._stop(index, Status.INTERRUPTED)

    def _run(self, bar: Any) -> None:
        for index in self.indices:
            if not isfinite(self.start_values[index]):
                self._stop(index, Status.NON_FINITE)
        for step in range(self.step, self.steps):
            if None not in self.statuses:
                return
            try:
                draw = self.solves.draw(step)
            except Exception as error:
                self.error = error
                break
            self._step(draw, check=(step + 1) % self.check_every == 0 or step + 1 == self.steps)
            self.step = step + 1
            self.after_step(draw)
            bar.update()
        if not self.error:
            self._look_again()
        for index in self.indices:
            if self.statuses[index] is None:
                self._stop(index, Status.DATA_FAILED if self.error else self._spent(index))

    def outcomes(self, seconds: float) -> list[Outcome]:
        """The outcome of each solve. All solves together took this many seconds."""
        records, start_records = _records(self.best_terms), _records(self.start_terms)
        share = seconds / len(self.indices)
        outcomes = []
        for index in self.indices:
            names = self.solves.weighted(index)
            terms = {name: records[index][name] for name in names}
            start_terms = {name: start_records[index][name] for name in names}
            outcomes.append(self._outcome(index, terms, start_terms, share))
        return outcomes

    def _outcome(
        self, index: int, terms: dict[str, float], start_terms: dict[str, float], seconds: float
    ) -> Outcome:
        status, history = self.statuses[index], self.histories[index]
        assert status is not None, "given by run"
        best = self.solves.only(index, self.best)
        outcome = Outcome(
            params={name: value.clone() for name, value in best.items()},
            status=status,
            objective=self.best_values[index],
            start_objective=self.start_values[index],
            terms=terms,
            start_terms=start_terms,
            history=history,
            stats=replace(
                self.work[index],
                steps=len(history),
                rollbacks=self.rollbacks[index],
                seconds=seconds,
            ),
            saa_samples=None if self.fresh else self.solves.solve(index).validation,
            error=self.error,
        )
        return outcome.vouched()

    def _step(self, draw: Any, check: bool) -> None:
        at = self.solves.gradients(self.params, draw)
        records = _records({"objective": at.value, **at.terms, "gradient_norm": at.norm})
        running = [status is None for status in self.statuses]
        finite = [all(map(isfinite, record.values())) for record in records]
        for index, record in enumerate(records):
            if running[index]:
                self.histories[index].append(record)
        self._roll_back([run and not fine for run, fine in zip(running, finite, strict=True)])
        moved = [run and fine for run, fine in zip(running, finite, strict=True)]
        if not self.fresh:
            values = [record["objective"] for record in records]
            self._consider(moved, Validated(values, at.terms))
        for index, record in enumerate(records):
            if moved[index] and self._stationary(index, at.gradient, record["gradient_norm"]):
                self._accept(index)
                moved[index] = False
        if not any(moved):
            return
        self._update(at.gradient, moved)
        if check:
            with within("validating"):
                validated = self.solves.validate(self.params)
            for index, record in enumerate(records):
                if moved[index]:
                    record["held_out"] = validated.values[index]
            self._consider(moved, validated)

    def _look_again(self) -> None:
        """Where the end seems to lie above the start, compare both on all validation samples."""
        above = [
            status is None and not last <= first  # NaN, too
            for status, last, first in zip(
                self.statuses, self.last_values, self.start_values, strict=True
            )
        ]
        if not any(above) or not self.fresh:
            return
        start = self.solves.validate(self.solves.start, None)
        last = self.solves.validate(self.params, None)
        below = [
            up and value <= first
            for up, value, first in zip(above, last.values, start.values, strict=True)
        ]
        if not any(below):
            return
        # The start was the best of these solves, or an iterate that remains the best.
        unmoved = [b and self.best_values[i] == self.start_values[i] for i, b in enumerate(below)]
        for index in self.indices:
            if below[index]:
                self.last_values[index] = self.start_values[index]
            if unmoved[index]:
                self.start_values[index] = start.values[index]
                self.best_values[index] = self.last_values[index] = last.values[index]
        self.best = self.solves.choose(unmoved, self.params, self.best)
        self.best_terms = self.solves.choose(unmoved, last.terms, self.best_terms)
        self.start_terms = self.solves.choose(unmoved, start.terms, self.start_terms)

    def _update(self, gradient: Params, moved: Sequence[bool]) -> None:
        lengths = [0.5**count for count in self.rollbacks]
        params, state = self.solves.update(gradient, self.state, self.params, lengths)
        self.params = self.solves.choose(moved, params, self.params)
        self.state = self.solves.choose(moved, state, self.state)

    def _consider(self, moved: Sequence[bool], validated: Validated) -> None:
        """Keep the iterates that are the best of their solves."""
        better, values = [False for _ in self.indices], list(self.best_values)
        for index, value in enumerate(validated.values):
            if moved[index]:
                self.last_values[index] = value
                better[index] = value < values[index]  # False for NaN
                if better[index]:
                    values[index] = value
        if any(better):
            best = self.solves.choose(better, self.params, self.best)
            terms = self.solves.choose(better, validated.terms, self.best_terms)
            # In one statement, between whose parts no interrupt comes.
            self.best, self.best_terms, self.best_values = best, terms, values

    def _roll_back(self, bad: Sequence[bool]) -> None:
        back = [False for _ in self.indices]
        for index in self.indices:
            if bad[index] and self.rollbacks[index] == RETRIES:
                self._stop(index, Status.NON_FINITE)
            elif bad[index]:
                back[index] = True
                self.rollbacks[index] += 1
                if index in self.rules:
                    self.rules[index].forget()
        if any(back):
            self.params = self.solves.choose(back, self.best, self.params)
            self.state = self.solves.choose(back, self.solves.init(self.best), self.state)

    def _stationary(self, index: int, gradient: Params, norm: float) -> bool:
        if not self.tol and norm:
            return False
        only = self.solves.only
        return self.rule(index).reached(only(index, self.params), only(index, gradient), norm)

    def rule(self, index: int) -> Stationarity:
        """What says when a solve is stationary."""
        if index not in self.rules:
            solve = self.solves.solve(index)
            self.rules[index] = Stationarity(
                solve.objective, solve.start, self.tol, smooth=self.fresh, confirm=solve.validation
            )
        return self.rules[index]

    def _accept(self, index: int) -> None:
        """End at a stationary point. One above the start is a failure."""
        validated = self.solves.validate(self.params)
        value = validated.values[index]
        if value > self.start_values[index]:
            self._stop(index, Status.DIVERGED)
            return
        only_this = [other == index for other in self.indices]
        best = self.solves.choose(only_this, self.params, self.best)
        terms = self.solves.choose(only_this, validated.terms, self.best_terms)
        values = [*self.best_values[:index], value, *self.best_values[index + 1 :]]
        self.best, self.best_terms, self.best_values = best, terms, values
        self._stop(index, Status.SOLVED)

    def _spent(self, index: int) -> Status:
        """The status after the last step."""
        start, best = self.start_values[index], self.best_values[index]
        if not self.last_values[index] <= start:  # NaN, too
            return Status.DIVERGED
        if best == start:
            finite = all(map(isfinite, self.histories[index][-1].values()))
            return Status.STALLED if finite else Status.NON_FINITE
        if not self.tol:
            return Status.BUDGET_SPENT
        solve = self.solves.solve(index)
        at_best = moments(solve.objective, self.solves.only(index, self.best), solve.validation)
        noisy = at_best.gradient_norm <= 2 * at_best.gradient_error
        return Status.NOISE_FLOOR if noisy else Status.STEP_LIMIT

    def _stop(self, index: int, status: Status) -> None:
        self.statuses[index] = status
        self.work[index] = self.solves.stats(index)


def _records(numbers: dict[str, Tensor]) -> list[dict[str, float]]:
    """The numbers of each solve, by name."""
    values = torch.stack(list(numbers.values()))  # one transfer from the device
    return [
        dict(zip(numbers, column, strict=True))
        for column in values.reshape(len(numbers), -1).T.tolist()
    ]
