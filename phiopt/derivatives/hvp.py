"""Hessian-vector products: H v at the price of a few gradients, H itself never formed.

H v = ∂/∂w ⟨∇L(w), v⟩ is the vector-Jacobian product of the gradient, since H is symmetric (Pearlmutter 1994). It is
computed by reverse mode over reverse mode. PyTorch's forward mode lacks fused recurrent kernels and some losses.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from torch.func import grad_and_value, vjp

from phiopt._transforms import in_transform
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
    if by_autograd(params):
        return _recorded(loss, params)
    (gradient, value), pullback = cast(_Vjp, vjp(grad_and_value(loss), params))
    still = torch.zeros_like(value)  # the value's own cotangent

    def hvp(vector: Params) -> Params:
        (product,) = pullback((vector, still))
        return product

    return Linearised(value, gradient, hvp)


def _recorded(loss: Callable[[Params], Tensor], params: Params) -> Linearised:
    """`linearise` by autograd itself. For a small model a transform for each derivative would take twice as long."""
    kept = torch.is_grad_enabled()
    with torch.enable_grad():
        w = watched(params, kept)
        value = loss(w)
        gradients = torch.autograd.grad(
            value, list(w.values()), create_graph=True, materialize_grads=True
        )
    gradient = dict(zip(w, gradients, strict=True))
    curved = [name for name, g in gradient.items() if g.requires_grad]

    def hvp(vector: Params) -> Params:
        if not curved:
            return {name: torch.zeros_like(p) for name, p in w.items()}
        further = torch.is_grad_enabled() and (kept or any(vector[n].requires_grad for n in curved))
        products = torch.autograd.grad(
            [gradient[name] for name in curved],
            list(w.values()),
            [vector[name] for name in curved],
            retain_graph=True,
            create_graph=further,
            materialize_grads=True,
        )
        return dict(zip(w, products, strict=True))

    if kept:
        return Linearised(value, gradient, hvp)
    return Linearised(value.detach(), {name: g.detach() for name, g in gradient.items()}, hvp)


def by_autograd(params: Params) -> bool:
    """Whether autograd itself can take the derivatives in ``params``. It cannot inside a transform. Where a graph is
    recorded to which ``params`` do not belong, its own use of them would seem to belong to the graph.
    """
    recorded = torch.is_grad_enabled() and not any(p.requires_grad for p in params.values())
    return not (recorded or in_transform())


def watched(params: Params, kept: bool) -> Params:
    """The parameters as tensors whose use is recorded. With ``kept`` they stay on the graph they are on."""
    return {
        name: (p.view_as(p) if kept else p.detach()).requires_grad_() for name, p in params.items()
    }


def dot(a: Params, b: Params) -> Tensor:
    """⟨a, b⟩ over the names of ``a``."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def square_norm(a: Params) -> Tensor:
    """‖a‖² = ⟨a, a⟩. It is squared because the root has no derivative at 0."""
    return dot(a, a)
