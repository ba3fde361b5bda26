"""The fourth term: the size of the Hessian of the loss on the teacher's data.

Every estimate is a product ⟨a, b⟩ of two Hessian-vector products, a = H_A v and b = H_B v, with one probe v. A and
B are parts of the batch, or both are the whole batch. This form has three advantages. If A and B are independent,
the estimate has no bias. If b is taken for a constant, 2 ⟨∂a/∂w, b⟩ is the gradient at half the price: exactly where
A and B are the same, in expectation where they are exchangeable. And a and b are linear in the Hessian, so a large
batch can go through in several small ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from phiopt._inputs import Inputs
from phiopt._types import Params
from phiopt.derivatives import Linearised, Product, linearise
from phiopt.objective.importance import importance_sample, leverage_scores
from phiopt.objective.mean_loss import Task
from phiopt.objective.microbatched import MicrobatchedCurvature, mean_dot, operator
from phiopt.objective.passes import SMALLEST, chunks
from phiopt.objective.probes import each
from phiopt.objective.search import Search
from phiopt.objective.term import Draws, Evaluation, Partition, Pass, Term, Work


class Curvature(ABC):
    """An estimate of ‖H‖² from products H v with random probes v."""

    batch: float | None = None
    """Share of a stochastic step's batch that A and B take together; None: each takes the whole batch."""
    every: int = 1
    """Steps of a stochastic solver from one evaluation to the next. The evaluation counts that many times."""

    @property
    def fixed_part(self) -> str:
        """What the gradient takes for a constant although it moves with w, such as "its eigenvector"; empty:
        nothing. Derivatives beyond the gradient are then wrong, and adjoints refuse the estimator.
        """
        return ""

    @property
    def float32_reason(self) -> str:
        """See `DeclaresPrecision`."""
        return ""

    @property
    @abstractmethod
    def products(self) -> int:
        """Number of Hessian-vector products of one evaluation on the whole batch, at most."""

    @property
    def searching(self) -> int:
        """How many of these products `aim` spends, at most. It reports them: see `reporting`."""
        return 0

    def reporting(self, to: Callable[[Search], None]) -> Curvature:
        """The same estimator, which calls ``to`` after every search of `aim`. By default `aim` makes none."""
        return self

    @abstractmethod
    def draw(self, params: Params, generator: Generator) -> Params:
        """Random probes, stacked on a leading axis."""

    def aim(self, operator: Callable[[], Product], probes: Params) -> Params:
        """The probes to use, where v ↦ H v is ``operator()``. By default they are the ones drawn."""
        return probes

    def part(self, size: int) -> int | None:
        """Examples of A, and of B, in a stochastic step whose batch has this size; None: both are the batch.

        Outside of such steps both are always the batch. Otherwise a minimiser could exploit a difference of A
        and B, and a comparison of iterates could be wrong.
        """
        if self.batch is None:
            return None
        part = max(SMALLEST, int(size * self.batch / 2))
        return part if 2 * part < size else None

    def linearise(self, task: Callable[[Params], Tensor], params: Params) -> Linearised:
        """L_f, and products with its Hessian, or with an approximation of the Hessian."""
        return linearise(task, params)

    def __call__(
        self, task: Callable[[Params], Tensor], params: Params, probes: Params
    ) -> tuple[Tensor, Tensor]:
        """L_f and its ‖H‖² at ``params``, from one shared graph; ``probes`` from `draw`.

        Differentiable in ``params`` to every order. ``task`` is a `Task`. An estimator that needs only its value
        takes any function of the parameters.
        """
        probes = self.aim(lambda: self.linearise(task, _still(params)).hvp, probes)
        at = self.linearise(task, params)
        products = each(at.hvp, probes)
        return at.value, mean_dot(products, products)


class CurvatureDraws(NamedTuple):
    """Random numbers of one evaluation.

    Args:
        probes: v, stacked on a leading axis.
        offsets: ``(2,)``, those of the samples A and B of a step's batch (`importance_sample`); None where
            both are the batch.
    """

    probes: Params
    offsets: Tensor | None = None


@dataclass(frozen=True)
class CurvatureTerm(Term):
    """L_4(∂²L_f/∂w²), the size of the Hessian by an estimate that `Frobenius` and `Spectral` describe.

    Args:
        estimator: The estimate.
    """

    name: ClassVar[str] = "curvature"
    over: ClassVar[Literal["examples", "batch", "parameters"]] = "batch"
    first: ClassVar[bool] = True
    third_derivatives: ClassVar[bool] = True
    large_draws: ClassVar[bool] = True

    estimator: Curvature

    @property
    def float32_reason(self) -> str:
        return self.estimator.float32_reason

    @property
    def first_order_only(self) -> str:
        estimator = self.estimator
        if not estimator.fixed_part:
            return ""
        return (
            f"curvature={type(estimator).__name__} holds {estimator.fixed_part} fixed, so that "
            "derivatives beyond the gradient are wrong; use Frobenius"
        )

    @property
    def interval(self) -> int:
        return self.estimator.every

    def draw(self, params: Params, inputs: Inputs, generator: Generator, step: bool) -> Draws:
        probes = self.estimator.draw(params, generator)
        if not step or not self.estimator.part(len(inputs)):
            return CurvatureDraws(probes)
        like = next(iter(params.values()))
        offsets = torch.rand(2, generator=generator, device=like.device, dtype=like.dtype)
        return CurvatureDraws(probes, offsets)

    def value(self, at: Evaluation, draws: Draws) -> Tensor:
        loss, value = self.estimator(at.task, at.params, draws.probes)
        at.provide(loss)
        return value

    def unit(self, start: Params, values: Callable[[], Tensor]) -> float:
        """The mean at w0. Where an estimate comes out negative, the mean of the sizes."""
        at_start = values()
        return float(at_start.mean() if at_start.mean() > 0 else at_start.abs().mean())

    def work(self, draws: Draws, examples: int) -> Work:
        products = self.estimator.products - self.estimator.searching
        if draws.offsets is None:
            return Work(task=True, hvp=products)
        share = (self.estimator.part(examples) or examples) / examples
        return Work(task=True, hvp=2 * share * products)

    def shared(self, start: Params) -> dict[str, Any]:
        return {"curvature": self.estimator}

    def reporting(self, to: Callable[[Search], None]) -> CurvatureTerm:
        return replace(self, estimator=self.estimator.reporting(to))

    def takes(self, size: int) -> bool:
        return self.estimator.part(size) is not None

    def cheaper(self, draws: Draws) -> bool:
        return draws.offsets is not None

    def scores(self, at: Evaluation, draws: Draws) -> Tensor | None:
        return None if draws.offsets is None else leverage_scores(at.task, at.outputs)

    def passes(
        self, weight: Tensor | float, on: Partition, scores: Tensor | None
    ) -> Iterator[Pass]:
        return self._parts(on, self._halves(on, scores)).passes(weight)

    def whole(self, on: Partition) -> Tensor:
        return self._parts(on, (on.task, on.task)).value()

    def hvp(self, weight: Tensor | float, on: Partition, vector: Params) -> Params:
        return self._parts(on, (on.task, on.task)).hvp(weight, vector)

    def _parts(self, on: Partition, tasks: tuple[Task, Task]) -> MicrobatchedCurvature:
        linearise = self.estimator.linearise
        probes = self.estimator.aim(
            lambda: operator(linearise, tasks[0], on.params, on.size), on.draws.probes
        )
        return MicrobatchedCurvature(self.name, linearise, tasks, on.params, probes, on.size)

    def _halves(self, on: Partition, scores: Tensor | None) -> tuple[Task, Task]:
        """A and B."""
        task, part = on.task, self.estimator.part(len(on.task))
        if on.draws.offsets is None or part is None:
            return task, task
        if scores is None:
            pieces = chunks(task, on.size)
            scores = torch.cat(
                [share * leverage_scores(p, p.outputs(on.params)) for p, share in pieces]
            )
        first, second = on.draws.offsets.unbind()
        return importance_sample(task, scores, part, first), importance_sample(
            task, scores, part, second
        )


def _still(params: Params) -> Params:
    return {name: value.detach() for name, value in params.items()}
