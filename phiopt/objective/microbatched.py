"""The curvature by passes through a few examples at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.func import vjp

from phiopt._types import Params
from phiopt.derivatives import Linearised, Product, dot
from phiopt.objective.mean_loss import Task
from phiopt.objective.passes import added, chunks, gradient_of, hvp_of, spans
from phiopt.objective.probes import each
from phiopt.objective.term import Pass, Terms

Linearise: TypeAlias = Callable[[Task, Params], Linearised]
"""L_f on a batch, and products with its Hessian, or with an approximation of the Hessian."""


def mean_dot(a: Params, b: Params) -> Tensor:
    """⟨a, b⟩ for each probe on the leading axis, averaged over the probes."""
    return dot(a, b) / len(next(iter(a.values())))


@dataclass(frozen=True, eq=False)
class MicrobatchedCurvature:
    """‖H‖² = ⟨a, b⟩, a = H_A v and b = H_B v (see `curvature`), and its derivatives at ``params``, by
    passes through at most ``size`` examples each.

    Both products are computed over the whole of A and B first; only then are they differentiated. Only a is
    differentiated, and its derivative is doubled. That is exact where A and B are the same examples, and right
    in expectation where they are exchangeable.

    Args:
        name: The term's name.
        linearise: L_f on a batch, with its products.
        tasks: L_f on A and on B.
        params: w.
        probes: v, stacked. They count as constants.
        size: Examples to a pass at most; None: all.
    """

    name: str
    linearise: Linearise
    tasks: tuple[Task, Task]
    params: Params
    probes: Params
    size: int | None

    def value(self) -> Tensor:
        b = self._product(self.tasks[1])
        a = b if self.tasks[0] is self.tasks[1] else self._product(self.tasks[0])
        return mean_dot(a, b)

    def passes(self, weight: Tensor | float) -> Iterator[Pass]:
        """Passes whose gradients sum to that of ``weight`` ‖H‖², and whose values to twice that.

        b is a constant within a pass only. A derivative of the gradient takes b's motion into account.
        """
        return self._passes(weight, self._product(self.tasks[1]))

    def hvp(self, weight: Tensor | float, vector: Params) -> Params:
        """The Hessian of ``weight`` ‖H‖² times a vector."""
        total: Params = {}
        for each_pass in self.passes(weight):
            total = added(total, hvp_of(each_pass, self.params, vector))
        for each_pass in self._passes(weight, self._product(self.tasks[1], along=vector)):
            total = added(total, gradient_of(each_pass, self.params)[2])
        return total

    def _passes(self, weight: Tensor | float, fixed: Params) -> Iterator[Pass]:
        for chunk, share in chunks(self.tasks[0], self.size):

            def of_chunk(
                w: Params, chunk: Task = chunk, share: float = share
            ) -> tuple[Tensor, Terms]:
                product = self.linearise(chunk, w).hvp
                estimate = share * mean_dot(each(product, self.probes), fixed)
                return 2 * weight * estimate, {self.name: estimate}

            yield of_chunk

    def _product(self, task: Task, along: Params | None = None) -> Params:
        """H v of a task, or its derivative along a vector."""
        total: Params = {}
        for chunk, share in chunks(task, self.size):

            def image(w: Params, chunk: Task = chunk) -> Params:
                return each(self.linearise(chunk, w).hvp, self.probes)

            part = image(self.params) if along is None else _moved(image, self.params, along)
            total = added(total, {name: share * value for name, value in part.items()})
        return total


def _moved(function: Callable[[Params], Params], params: Params, vector: Params) -> Params:
    """The derivative of ``function`` along a vector, by reverse over reverse mode: u ↦ Jᵀ u is linear,
    and its own transpose is J.
    """
    value, pullback = cast(Any, vjp(function, params))
    still = {name: torch.zeros_like(v) for name, v in value.items()}
    transposed = cast(Any, vjp(lambda u: pullback(u)[0], still)[1])
    return transposed(vector)[0]


def operator(linearise: Linearise, task: Task, params: Params, size: int | None) -> Product:
    """v ↦ H v. With several batches, no graph is kept from one to the next."""
    if len(spans(len(task), size)) == 1:
        return linearise(task, params).hvp

    def product(vector: Params) -> Params:
        total: Params = {}
        for chunk, share in chunks(task, size):
            h = linearise(chunk, params).hvp(vector)
            total = added(total, {name: share * value for name, value in h.items()})
        return total

    return product
