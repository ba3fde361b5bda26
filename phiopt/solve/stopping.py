"""When a stochastic solve has reached a stationary point, in spite of its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phiopt._types import Params
from phiopt.derivatives import square_norm
from phiopt.objective import Sample
from phiopt.solve.certificate import moments
from phiopt.solve.counted import Counted

SMOOTHING = 0.9
"""Decay of the moving average of gradients."""
WARM_UP = 20
"""Gradients in the average before it is used, and between two confirmations."""


@dataclass
class Stationarity:
    """The gradient norm against ``tol`` times the start's.

    The norm of a single gradient stays at the level of its noise, so the norm of a moving average of gradients is
    used. Gradients of alternating sign average to zero far from any stationary point. So a small average is
    confirmed by the mean gradient at the iterate itself, on the draws ``confirm``. A frozen sample has no noise: with
    ``smooth=False`` each gradient is used alone.

    A ``tol`` of 0 stops at a gradient that is exactly zero.
    """

    objective: Counted
    start: Params
    tol: float
    smooth: bool
    confirm: Sequence[Sample]
    average: Params | None = None
    age: int = 0
    threshold: float | None = None

    def reached(self, params: Params, gradient: Params, norm: float) -> bool:
        """Whether ``params``, where a step's ``gradient`` has this ``norm``, is stationary."""
        if not self.tol:
            return norm == 0 and self._norm(params) == 0
        if self.threshold is None:
            self.threshold = self.tol * self._norm(self.start)
        if not self.smooth:
            return norm <= self.threshold
        self.age += 1
        self.average = (
            gradient
            if self.average is None
            else {
                name: SMOOTHING * mean + (1 - SMOOTHING) * gradient[name]
                for name, mean in self.average.items()
            }
        )
        if self.age < WARM_UP or float(square_norm(self.average).sqrt()) > self.threshold:
            return False
        self.age = 0
        return self._norm(params) <= self.threshold

    def forget(self) -> None:
        """Start a new average, because the iterate has jumped."""
        self.average, self.age = None, 0

    @property
    def state(self) -> dict[str, Any]:
        """What changes from gradient to gradient."""
        return {"average": self.average, "age": self.age, "threshold": self.threshold}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self.average, self.age, self.threshold = (
            state[name] for name in ("average", "age", "threshold")
        )

    def _norm(self, params: Params) -> float:
        return moments(self.objective, params, self.confirm).gradient_norm
