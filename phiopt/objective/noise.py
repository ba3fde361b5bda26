"""The third term: the loss in the neighbourhood of the data (vicinal risk)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Generator, Tensor

from phiopt._checks import Scalar
from phiopt._inputs import Inputs, Targets, flattened, repeated
from phiopt._types import Loss, Model, Params, float32_reason_of
from phiopt.objective.around import drawn_around, no_neighbours, perturbed
from phiopt.objective.neighbourhood import Neighbourhood, at_delta, delta_of
from phiopt.objective.task import task
from phiopt.objective.term import Draws, Evaluation, Term, Work

DELTA = "neighbourhood.delta"


@dataclass(frozen=True)
class NoiseTerm(Term):
    """L_3^δ(w, D1), the expected loss around each example. See `noise`.

    Args:
        neighbourhood: U_δ, in the teacher's input space.

    A subclass under another name can stand beside this term. It has a δ of its own, which does not follow the
    problem's.
    """

    name: ClassVar[str] = "noise"
    own_inputs: ClassVar[bool] = True

    neighbourhood: Neighbourhood

    @property
    def float32_reason(self) -> str:
        return float32_reason_of(self.neighbourhood)

    def refuses(self, inputs: Inputs) -> str:
        return no_neighbours(self.neighbourhood, inputs)

    def draw(self, params: Params, inputs: Inputs, generator: Generator, step: bool) -> Draws:
        return drawn_around(self.neighbourhood, inputs, generator)

    def part(self, draws: Draws, start: int, stop: int) -> Draws:
        return tuple(draw[:, start:stop] for draw in draws)

    def value(self, at: Evaluation, draws: Draws) -> Tensor:
        task = at.task
        noisy = perturbed(self.neighbourhood, task.inputs, draws)
        return noise(task.model, task.loss, at.params, noisy, task.targets)

    def work(self, draws: Draws, examples: int) -> Work:
        return Work(forward=len(draws[0]))

    def tensors(self) -> Params:
        delta = delta_of(self.neighbourhood)
        return {self._delta_name: delta} if isinstance(delta, Tensor) else {}

    def shared(self, start: Params) -> dict[str, Any]:
        return {"neighbourhood": self.neighbourhood}

    def with_tensors(self, values: Params) -> NoiseTerm:
        name = self._delta_name
        return self._at(values[name]) if name in values else self

    def with_delta(self, delta: Scalar) -> NoiseTerm | None:
        if delta_of(self.neighbourhood) is None or not self._is_problems:
            return None
        return self._at(delta)

    @property
    def _is_problems(self) -> bool:
        """Whether the δ is that of the problem."""
        return self.name == NoiseTerm.name

    @property
    def _delta_name(self) -> str:
        """The name of δ among `tensors`."""
        return DELTA if self._is_problems else f"{self.name}.delta"

    def _at(self, delta: Scalar) -> NoiseTerm:
        return replace(self, neighbourhood=at_delta(self.neighbourhood, delta))


def noise(model: Model, loss: Loss, params: Params, noisy: Inputs, targets: Targets) -> Tensor:
    """L_3^δ(w, D1): the mean over D1 of the expected loss around each example.

        1/m Σ_{(x, y) ∈ D1} E_{x' ∈ U_δ(x)} l(y, f(ψ(x'), w))        (paper, section 4, term 3)

    ``noisy`` holds x', ``(samples, batch, ...)``, drawn in the teacher's space (`perturbed`). The expectation is the
    average over the samples. All go through the model as one batch. As in `Task`, the paper's sum over D1 is a mean.
    """
    return task(model, loss, params, flattened(noisy), repeated(targets, len(noisy)))
