"""w0 as a function of θ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from phiopt._modules import state_of
from phiopt._types import Params
from phiopt.growth import grow


def uniform_start(
    teacher: nn.Module, student: nn.Module, fill: str, **options: Any
) -> Callable[[Tensor], Params]:
    """w0 as a differentiable function of θ. The uniform fills are affine in θ. ``options`` are those of `grow`."""
    low, high = (
        _tensors(grow(teacher, student, fill, theta=theta, **options)) for theta in (0.0, 1.0)
    )
    floating = {name for name, value in low.items() if value.is_floating_point()}

    def start(theta: Tensor) -> Params:
        return {
            name: value + theta.to(value) * (high[name] - value) if name in floating else value
            for name, value in low.items()
        }

    return start


def _tensors(module: nn.Module) -> Params:
    state = state_of(module)
    return {name: value.detach() for name, value in state.items()}
