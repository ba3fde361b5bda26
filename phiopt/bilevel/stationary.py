"""A stationary point of the objective, as a function of λ, δ, u and ψ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import vjp

from phiopt._types import Params
from phiopt._vector import to_params, to_vector
from phiopt.objective import Objective, Sample
from phiopt.solve.certificate import moments
from phiopt.solve.counted import Counted
from phiopt.solve.spectrum import MeanHessian


@dataclass(frozen=True)
class StationaryPoint:
    """w with ∇_w L(w, θ) = 0. The equation makes w a function of θ nearby.

    Args:
        objective: L.
        params: w.
        samples: The draws over which L is averaged.
        theta: The inputs θ, by the names of `differentiable_inputs`.
        counted: L at θ.
        hessian: v ↦ H v, H = ∂²L/∂w².
    """

    objective: Objective
    params: Params
    samples: Sequence[Sample]
    theta: Params
    counted: Counted
    hessian: MeanHessian

    @classmethod
    def of(
        cls, objective: Objective, params: Params, samples: Sequence[Sample], theta: Params
    ) -> StationaryPoint:
        counted = Counted(objective.with_tensors(theta))
        hessian = MeanHessian(counted, params, samples)
        return cls(objective, params, samples, theta, counted, hessian)

    @property
    def gradient_norm(self) -> float:
        """‖∇_w L‖, which is 0 at a stationary point up to the solver's tolerance."""
        return moments(self.counted, self.params, self.samples).gradient_norm

    def product(self, vector: Tensor) -> Tensor:
        """H v, of vectors ``(n,)``."""
        return to_vector(self.hessian(to_params(vector, self.params)))

    def pull_back(self, x: Tensor) -> Params:
        """−(∂²L/∂w∂θ)ᵀ x, by the names of θ."""
        total = {name: torch.zeros_like(value) for name, value in self.theta.items()}
        pieces = (pair for sample in self.samples for pair in self.objective.pieces(sample))
        for piece, share in pieces:

            def gradient(theta: Params, piece: Sample = piece) -> Params:
                return self.objective.with_tensors(theta).value_and_grad(self.params, piece)[2]

            transposed = cast(Any, vjp(gradient, self.theta))[1]
            (partial,) = transposed(to_params(x, self.params))
            share /= len(self.samples)
            total = {name: value - share * partial[name] for name, value in total.items()}
            del transposed, partial  # so that only one graph is alive at a time
        return total
