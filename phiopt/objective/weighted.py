"""The terms of φ's objective with their weights: the formula, without a sample."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from phiopt._checks import Scalar, count
from phiopt._types import Loss, Model, Params
from phiopt._vector import under
from phiopt.data import Data
from phiopt.objective.lambdas import Lambdas, weighed
from phiopt.objective.passes import SMALLEST
from phiopt.objective.sample import Sample
from phiopt.objective.search import Search
from phiopt.objective.term import Term


@dataclass(frozen=True, eq=False)
class WeightedTerms:
    """Terms L_i, their weights λ_i and their divisors.

    Args:
        model: f(ψ(x), w) as a function ``(params, inputs)``; see `pure_model`.
        loss: ``l(outputs, targets)`` to per-example losses; see `student_loss`.
        terms: The terms, in the order of reports.
        lambdas: The weights of the paper's terms. One whose term is not among ``terms`` is not computed.
        extra: The weights of other terms, by name: numbers or 0-dimensional tensors, not negative.
        data: D1. None: only terms over the parameters can be computed.
        divisors: What each term is divided by before it is weighted; 1 where not named. See
            `Objective.relative`.
        micro_batch: Examples that go through the model at once, in all methods but `Objective.value`. It bounds
            the memory of activations; the result is the same to rounding. None: all of the sample.
        psi: ψ's own parameters by name, to differentiate in. Empty (default): the model holds them.
    """

    model: Model
    loss: Loss
    terms: Sequence[Term]
    lambdas: Lambdas
    extra: Mapping[str, Scalar] = field(default_factory=dict)
    data: Data | None = None
    divisors: Mapping[str, float] = field(default_factory=dict)
    micro_batch: int | None = None
    psi: Params = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.micro_batch is not None:
            count("micro_batch", self.micro_batch)

    @property
    def names(self) -> list[str]:
        """Names of the terms, in their order."""
        return [term.name for term in self.terms]

    @property
    def weights(self) -> dict[str, Scalar]:
        """λ of every term, by name, in the order of the terms."""
        weights = {**dict(self.lambdas.items()), **self.extra}
        return {name: weights[name] for name in self.names}

    @property
    def active(self) -> list[str]:
        """Names of the terms that count: all but those whose weight is the number 0."""
        return weighed(self.weights)

    @property
    def beyond_gradient(self) -> list[str]:
        """Names of the terms that take derivatives of the student's loss beyond the gradient."""
        return [term.name for term in self.terms if term.third_derivatives]

    def weight_name(self, name: str) -> str:
        """What an error calls the weight of the term of this name."""
        return f"extra.{name}" if name in self.extra else f"lambdas.{name}"

    @property
    def interval(self) -> int:
        """One step of a stochastic solver in so many has all terms with weight."""
        active = self.active
        return max([1, *(term.interval for term in self.terms if term.name in active)])

    def halved(self, length: int) -> bool:
        """Whether a step halves its batch of this length, one half for the terms with inputs of their own and one for
        the others. A whole batch would go through the student twice. Where both gradients of one example are equal the
        sum has the same variance at half the price.
        """
        active = self.active
        counted = [t for t in self.terms if t.name in active and t.over != "parameters"]
        own = [term.own_inputs for term in counted]
        half = length // 2
        return (
            half >= SMALLEST and any(own) and not all(own) and all(t.takes(half) for t in counted)
        )

    def term(self, name: str) -> Term | None:
        """The term of this name; None if there is none."""
        return next((term for term in self.terms if term.name == name), None)

    def with_term(self, term: Term) -> Self:
        """With this term in place of the term of its name, or after the others."""
        if term.name not in self.names:
            return replace(self, terms=[*self.terms, term])
        return replace(self, terms=[term if t.name == term.name else t for t in self.terms])

    def without_terms(self, names: Collection[str]) -> Self:
        """Without the terms of these names, which have no weight."""
        return replace(self, terms=[term for term in self.terms if term.name not in names])

    def with_delta(self, delta: Scalar) -> Self:
        """With this δ in the terms that depend on it. An error if there are none."""
        moved = [term.with_delta(delta) for term in self.terms]
        if all(term is None for term in moved):
            raise ValueError(
                f"delta: got {delta}, must be None: none of the problem's terms, {', '.join(self.names)}, has a δ"
            )
        pairs = zip(self.terms, moved, strict=True)
        return replace(self, terms=[term if other is None else other for term, other in pairs])

    def reporting(self, to: Callable[[Search], None]) -> Self:
        """With terms that call ``to`` after every search that they make."""
        return replace(self, terms=[term.reporting(to) for term in self.terms])

    def tensors(self) -> Params:
        """The tensors that a solution can be differentiated in: ``lambdas.task``, ``extra.NAME``,
        ``psi.NAME``, and those of the terms, such as ``teacher.NAME`` and ``neighbourhood.delta``.
        """
        values = {f"lambdas.{name}": weight for name, weight in self.lambdas.items()}
        values |= {f"extra.{name}": weight for name, weight in self.extra.items()}
        values |= {f"psi.{name}": value for name, value in self.psi.items()}
        for term in self.terms:
            values |= term.tensors()
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def with_tensors(self, values: Params) -> Self:
        """With other values for some of `tensors`."""
        weights: dict[str, Any] = {**under("lambdas.", values)}
        return replace(
            self,
            lambdas=replace(self.lambdas, **weights) if weights else self.lambdas,
            extra={**self.extra, **under("extra.", values)},
            psi=self.psi | under("psi.", values),
            terms=[term.with_tensors(values) for term in self.terms],
        )

    def weigh(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Σ λ_i L_i / divisor_i over the terms that have weight."""
        return torch.stack([self._weight(n) * terms[n] for n in self.active]).sum()

    def _weight(self, name: str, sample: Sample | None = None) -> Tensor | float:
        """λ_i / divisor_i. On the sample of a step it is multiplied by the term's interval."""
        term = self.term(name)
        times = term.interval if term is not None and sample is not None and sample.step else 1
        return self.weights[name] * times / self.divisors.get(name, 1.0)

    def _share(self, name: str, share: float) -> float:
        """The factor of the term's value on a part of the batch that is this share of it."""
        term = self.term(name)
        return 1.0 if term is None or term.over == "parameters" else share
