"""The paper's image corruption: pixels are replaced at random (section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Generator, Tensor

from phiopt._checks import Scalar, known, within
from phiopt._transforms import differentiated
from phiopt.objective.neighbourhood import Draw, check_settings
from phiopt.objective.sampling import Sampling, float32_reason, uniforms


@dataclass(frozen=True)
class Corruption:
    """Each pixel is replaced by U[low, high] with probability δ (the paper's image corruption, section 5.2).

    In images ``(batch, channels, height, width)`` a pixel is all channels of a position. In inputs of another
    number of axes it is a single coordinate.

    Args:
        delta: δ ∈ [0, 1], the expected fraction of pixels replaced; a number. x' jumps in δ, so there is no
            derivative in δ.
        samples: Draws of x' to an x; default 1.
        low: Least replacement value; default 0.
        high: Largest; default 1.
        sampling: How the samples of one input relate: "independent" (default); "antithetic", u and 1 - u
            in pairs, an even number; or "sobol", shifted Sobol points, a power of two.

    Raises:
        ValueError: ``delta`` outside [0, 1] or a tensor that requires grad, ``samples`` < 1, or
            ``low`` ≥ ``high``.

    Examples:
        >>> Corruption(0.3).samples
        1
    """

    largest_delta: ClassVar[float] = 1.0

    delta: Scalar
    samples: int = 1
    low: float = 0.0
    high: float = 1.0
    sampling: Sampling = "independent"

    def __post_init__(self) -> None:
        check_settings(self.delta, self.samples, None, self.sampling)
        low, high = (within(name, getattr(self, name), -inf, inf) for name in ("low", "high"))
        if not low < high:
            raise ValueError(f"low: got {low}, high: got {high}, low must be less than high")
        if differentiated(self.delta):
            raise ValueError(
                "delta: got a tensor that requires grad, but x' jumps in δ under Corruption; "
                "use Uniform or Gaussian to differentiate in δ"
            )
        value = known(self.delta)
        if value is not None and value > self.largest_delta:
            raise ValueError(f"delta: got {value}, a fraction of pixels must lie in [0, 1]")

    @property
    def float32_reason(self) -> str:
        """See `DeclaresPrecision`."""
        return float32_reason(self.sampling)

    def caution(self, inputs: Tensor) -> str:
        """See `Cautious`."""
        low, high = float(inputs.min()), float(inputs.max())
        beyond = 0.01 * (self.high - self.low)
        narrow = 0 < high - low < 0.02 * (self.high - self.low)
        inside = self.low - beyond <= low and high <= self.high + beyond
        if not known(self.delta) or (inside and not narrow):
            return ""
        return (
            f"Corruption replaces pixels by values from {self.low:g} to {self.high:g}, but the inputs lie from "
            f"{low:.4g} to {high:.4g}; give it low= and high= of the inputs"
        )

    def draw(self, inputs: Tensor, generator: Generator) -> Draw:
        pixels = inputs[:, :1] if inputs.dim() == 4 else inputs
        values = uniforms(self.samples, inputs, generator, self.sampling)
        values = values * (self.high - self.low) + self.low
        return uniforms(self.samples, pixels, generator, self.sampling), values

    def perturb(self, inputs: Tensor, draw: Draw) -> Tensor:
        rank, values = draw
        return torch.where(rank < self.delta, values, inputs)
