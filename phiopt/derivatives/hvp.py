"""Hessian-vector products: H v at the price of a few gradients, H itself never formed.

H v = ∂/∂w ⟨∇L(w), v⟩ is the vector-Jacobian product of the gradient, since H is symmetric (Pearlmutter 1994). It is
computed by reverse mode over reverse mode. PyTorch's forward mode lacks fused recurrent kernels and some losses.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from torch.func import grad_and_value, vjp

from phiopt._types import Params

_Vjp: TypeAlias = tuple[tuple[Params, Tensor], Callable[[Any], tuple[Params]]]
"""The result of ``vjp`` without auxiliary output."""


Product: TypeAlias = Callable[[Params], Params]
"""v ↦ H v."""


class Linearised(NamedTuple):
    """A function at a point: its ``value``, its ``gradient``, and the product ``hvp(v)`` = H v."""

    value: Tensor
    gradient: Params
    hvp: Product


def linearise(loss: Callable[[Params], Tensor], params: Params) -> Linearised:
    """Value, gradient and Hessian of the scalar ``loss`` at ``params``, all from one forward pass.

    ``hvp`` may be called many times. A call costs about one and a half gradients. Every result is itself
    differentiable.

        >>> w = {"w": torch.tensor([1.0, 2.0])}
        >>> linearise(lambda p: (p["w"] ** 3).sum(), w).hvp({"w": torch.ones(2)})
        {'w': tensor([ 6., 12.])}
    """
    (gradient, value), pullback = cast(_Vjp, vjp(grad_and_value(loss), params))
    still = torch.zeros_like(value)  # the value's own cotangent

    def hvp(vector: Params) -> Params:
        (product,) = pullback((vector, still))
        return product

    return Linearised(value, gradient, hvp)


def dot(a: Params, b: Params) -> Tensor:
    """⟨a, b⟩ over the names of ``a``."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def square_norm(a: Params) -> Tensor:
    """‖a‖² = ⟨a, a⟩. It is squared because the root has no derivative at 0."""
    return dot(a, a)
