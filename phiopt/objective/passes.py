"""One gradient of the objective as a sum over several passes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.func import vjp

from phiopt._transforms import in_transform
from phiopt._types import Params
from phiopt.derivatives import linearise
from phiopt.objective.curvature import Curvature, Product, mean_dot
from phiopt.objective.probes import each
from phiopt.objective.task import Task

Terms: TypeAlias = dict[str, Tensor]
Pass: TypeAlias = Callable[[Params], tuple[Tensor, Terms]]
"""A share of the weighted sum to differentiate, and the same share of the raw terms."""

_VjpWithTerms: TypeAlias = tuple[Tensor, Callable[..., tuple[Params]], Terms]
"""Of the two results that ``vjp`` may have, the one with auxiliary output."""


def gradient_of(function: Pass, params: Params) -> tuple[Tensor, Terms, Params]:
    """Value, terms and gradient of one pass."""
    recorded = torch.is_grad_enabled() and any(p.requires_grad for p in params.values())
    if recorded and not in_transform():
        # All will be differentiated further: a transform would cost a small model half as much again.
        w = {name: p.view_as(p).requires_grad_() for name, p in params.items()}
        value, terms = function(w)
        found = torch.autograd.grad(
            value, list(w.values()), create_graph=True, materialize_grads=True
        )
        return value, terms, dict(zip(w, found, strict=True))
    value, pullback, terms = cast(_VjpWithTerms, vjp(function, params, has_aux=True))
    # Not torch.func.grad, which records its own backward pass even where nobody can ask for more
    # derivatives: without gradient mode this one does not, a tenth of the time.
    (gradient,) = pullback(torch.ones_like(value), retain_graph=False)
    return value, terms, gradient


def gradient_of_sum(passes: Iterable[Pass], params: Params) -> tuple[Terms, Params]:
    """Terms and gradient of Σ passes, with the graph of one pass alive at a time."""
    total: Terms = {}
    gradient: Params = {}
    for each_pass in passes:
        _, terms, part = gradient_of(each_pass, params)
        total = added(total, terms)
        gradient = added(gradient, part)
    return total, gradient


def hvp_of(each_pass: Pass, params: Params, vector: Params) -> Params:
    """The Hessian of one pass times a vector."""
    return linearise(lambda w: each_pass(w)[0], params).hvp(vector)


@dataclass(frozen=True, eq=False)
class InParts:
    """‖H‖² = ⟨a, b⟩, a = H_A v and b = H_B v (see `curvature`), and its derivatives at ``params``, by
    passes through at most ``size`` examples each.

    Both products are needed whole before their derivatives. ``tasks`` are A and B, ``probes`` are
    those that `Curvature.aim` gave, whose own motion is left out. Only a is differentiated, and
    counted twice. That is exact where A and B are the same examples, and right in expectation where
    they are exchangeable.
    """

    curvature: Curvature
    tasks: tuple[Task, Task]
    params: Params
    probes: Params
    size: int | None

    @classmethod
    def aimed(
        cls,
        curvature: Curvature,
        tasks: tuple[Task, Task],
        params: Params,
        probes: Params,
        size: int | None,
    ) -> "InParts":
        """With the probes to use there."""
        probes = curvature.aim(lambda: _operator(curvature, tasks[0], params, size), probes)
        return cls(curvature, tasks, params, probes, size)

    def value(self) -> Tensor:
        b = self._product(self.tasks[1])
        a = b if self.tasks[0] is self.tasks[1] else self._product(self.tasks[0])
        return mean_dot(a, b)

    def passes(self, weight: Tensor | float) -> Iterator[Pass]:
        """Passes whose gradients sum to that of ``weight`` ‖H‖², and whose values to twice that.

        b is fixed within a pass only: an outer derivative of the gradient sees it move.
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
                product = self.curvature.linearise(chunk, w).hvp
                estimate = share * mean_dot(each(product, self.probes), fixed)
                return 2 * weight * estimate, {"curvature": estimate}

            yield of_chunk

    def _product(self, task: Task, along: Params | None = None) -> Params:
        """H v of a task, or its derivative along a vector."""
        total: Params = {}
        for chunk, share in chunks(task, self.size):

            def image(w: Params, chunk: Task = chunk) -> Params:
                return each(self.curvature.linearise(chunk, w).hvp, self.probes)

            found = image(self.params) if along is None else _moved(image, self.params, along)
            total = added(total, {name: share * value for name, value in found.items()})
        return total


def _moved(function: Callable[[Params], Params], params: Params, vector: Params) -> Params:
    """The derivative of ``function`` along a vector, by reverse over reverse mode: u ↦ Jᵀ u is linear,
    and its own transpose is J.
    """
    value, pullback = cast(Any, vjp(function, params))
    still = {name: torch.zeros_like(v) for name, v in value.items()}
    transposed = cast(Any, vjp(lambda u: pullback(u)[0], still)[1])
    return transposed(vector)[0]


def _operator(curvature: Curvature, task: Task, params: Params, size: int | None) -> Product:
    """v ↦ H v; in several batches, with no graph kept from one to the next."""
    if len(spans(len(task), size)) == 1:
        return curvature.linearise(task, params).hvp

    def product(vector: Params) -> Params:
        total: Params = {}
        for chunk, share in chunks(task, size):
            h = curvature.linearise(chunk, params).hvp(vector)
            total = added(total, {name: share * value for name, value in h.items()})
        return total

    return product


def added(total: Params, part: Params) -> Params:
    """total + part, where ``total`` may be empty."""
    return total | {name: total[name] + v if name in total else v for name, v in part.items()}


def spans(length: int, size: int | None) -> list[tuple[int, int]]:
    """Consecutive (start, stop) of at most ``size``."""
    size = size or length
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def chunks(task: Task, size: int | None) -> list[tuple[Task, float]]:
    """Parts of the batch, each with its share of the mean."""
    return [(task.part(a, b), (b - a) / len(task)) for a, b in spans(len(task), size)]
