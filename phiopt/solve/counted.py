"""An objective that counts its evaluations and searches, for the report of a solve."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from phiopt._types import Params
from phiopt.derivatives import Product
from phiopt.objective import Objective, Sample
from phiopt.objective.search import Search
from phiopt.solve.outcome import Stats


class Counted:
    """An objective that counts its evaluations.

    ``unsettled`` counts the terms' searches that did not reach their tolerance. ``search_error`` is the largest
    error of a search; None without searches.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective.reporting(self._searched)
        self.gradient = self.unsettled = 0
        self.forward = self.hvp = 0.0
        self.search_error: float | None = None

    def value_and_grad(
        self, params: Params, sample: Sample
    ) -> tuple[Tensor, dict[str, Tensor], Params]:
        self._count_gradient(sample)
        return self.objective.value_and_grad(params, sample)

    def hessian(self, params: Params, sample: Sample) -> Product:
        """v ↦ ∇²L(w) v, with the Hessian of the whole objective."""
        self._count_gradient(sample)
        product = self.objective.hessian(params, sample)

        def hvp(vector: Params) -> Params:
            self.hvp += 1
            return product(vector)

        return hvp

    def mean_terms(
        self, params: Params, samples: Sequence[Sample], names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Means over the samples of the raw terms of these names (None: of all terms)."""
        records = []
        for sample in samples:
            records.append(self.objective.evaluate(params, sample, names))
            self._count(records[-1], sample)
        return {name: torch.stack([r[name] for r in records]).mean() for name in records[0]}

    def stats(self, steps: int, rollbacks: int, seconds: float) -> Stats:
        work = (self.gradient, self.forward, self.hvp)
        return Stats(steps, *work, rollbacks, seconds, self.unsettled)

    @property
    def counts(self) -> dict[str, Any]:
        """All that was counted."""
        return {name: value for name, value in vars(self).items() if name != "objective"}

    @counts.setter
    def counts(self, counts: dict[str, Any]) -> None:
        vars(self).update(counts)

    def _searched(self, search: Search) -> None:
        self.hvp += search.products
        self.unsettled += search.unsettled
        self.search_error = max(self.search_error or 0.0, search.error)

    def _count_gradient(self, sample: Sample) -> None:
        self._count(None, sample)
        self.gradient += 1

    def _count(self, terms: Collection[str] | None, sample: Sample) -> None:
        work = self.objective.work(sample, terms)
        self.forward += work.task + work.forward
        self.hvp += work.hvp
