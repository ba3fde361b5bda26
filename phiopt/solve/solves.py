"""The solves that the loop of the stochastic solver drives: one, or many side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torchopt
from torch import Tensor

from phiopt._types import Params
from phiopt.derivatives import square_norm
from phiopt.objective import Objective, Sample, Stream
from phiopt.solve.counted import Counted
from phiopt.solve.outcome import Stats

VALIDATION_SAMPLES, COMPARED_ON = 8, 4
"""Held-out draws, always the same (common random numbers), and the number of those on which iterates are compared. All
count where more depends on them: that the end lies above the start, or that a gradient is small."""


class Gradients(NamedTuple):
    """On the samples of a step: L of each solve, its raw terms with weight, ∇L and its norm."""

    value: Tensor
    terms: dict[str, Tensor]
    gradient: Params
    norm: Tensor


class Validated(NamedTuple):
    """On the validation samples: L of each solve, and its raw terms, the mean over the samples."""

    values: list[float]
    terms: dict[str, Tensor]


class Solves(Protocol):
    """N solves that take their steps together.

    Parameters, optimiser states and terms are trees of tensors. The loop does not look into them. ``start`` is w0
    of all solves.
    """

    start: Params

    def __len__(self) -> int: ...

    def draw(self, step: int) -> Any:
        """The samples of a step. An exception from reading the data is raised."""
        ...

    def gradients(self, params: Params, draw: Any) -> Gradients: ...

    def validate(self, params: Params, number: int | None = COMPARED_ON) -> Validated:
        """L and the terms with weight on so many validation samples; None: on all."""
        ...

    def init(self, params: Params) -> Any:
        """New optimiser states."""
        ...

    def update(
        self, gradient: Params, state: Any, params: Params, lengths: Sequence[float]
    ) -> tuple[Params, Any]:
        """Parameters and states after a step. Each solve's step is multiplied by its length."""
        ...

    def choose(self, which: Sequence[bool], ours: Any, theirs: Any) -> Any:
        """A tree that is ``ours`` for the solves where ``which`` is true, and ``theirs`` for the others."""
        ...

    def only(self, index: int, params: Params) -> Params:
        """The parameters of one solve."""
        ...

    def solve(self, index: int) -> OneSolve:
        """One of the solves, alone."""
        ...

    def weighted(self, index: int) -> Sequence[str]:
        """Names of the terms that have weight in one solve."""
        ...

    def stats(self, index: int) -> Stats:
        """The work of one solve until now."""
        ...


class OneSolve:
    """One solve, evaluated without ``vmap``. See `Solves`."""

    def __init__(
        self,
        objective: Objective,
        start: Params,
        seed: int,
        optimizer: Any,
        *,
        batch_size: int | None,
        fresh: bool = True,
        validation: Sequence[Sample] | None = None,
    ) -> None:
        self.objective, self.start, self.seed = Counted(objective), start, seed
        self.optimizer, self.batch_size, self.fresh = optimizer, batch_size, fresh
        if validation is None:
            stream, count = (Stream.HELD_OUT, VALIDATION_SAMPLES) if fresh else (Stream.TRAIN, 1)
            validation = objective.samples(
                start, batch_size, seed, stream, range(count), weighted=True
            )
            if not fresh:
                validation = list(validation)  # one, of every step
        self.validation = validation

    def __len__(self) -> int:
        return 1

    def draw(self, step: int) -> Sample:
        return self._sample(Stream.STEP, step) if self.fresh else self.validation[0]

    def gradients(self, params: Params, draw: Sample) -> Gradients:
        value, terms, gradient = self.objective.value_and_grad(params, draw)
        return Gradients(value, terms, gradient, square_norm(gradient).sqrt())

    def validate(self, params: Params, number: int | None = COMPARED_ON) -> Validated:
        objective = self.objective.objective
        terms = self.objective.mean_terms(params, self.validation[:number], objective.active)
        return Validated([float(objective.weigh(terms))], terms)

    def init(self, params: Params) -> Any:
        return self.optimizer.init(params)

    def update(
        self, gradient: Params, state: Any, params: Params, lengths: Sequence[float]
    ) -> tuple[Params, Any]:
        updates, state = self.optimizer.update(gradient, state, params=params, inplace=False)
        if lengths[0] != 1:
            updates = {name: update * lengths[0] for name, update in updates.items()}
        return torchopt.apply_updates(params, updates, inplace=False), state

    def choose(self, which: Sequence[bool], ours: Any, theirs: Any) -> Any:
        return ours if which[0] else theirs

    def only(self, index: int, params: Params) -> Params:
        return params

    def solve(self, index: int) -> OneSolve:
        return self

    def weighted(self, index: int) -> Sequence[str]:
        return self.objective.objective.active

    def stats(self, index: int) -> Stats:
        return self.objective.stats(0, 0, 0.0)

    def _sample(self, stream: Stream, step: int) -> Sample:
        return self.objective.objective.sample(
            self.start, self.batch_size, self.seed, stream, step, weighted=True
        )
