"""Whether automatic differentiation and finite differences agree on a function, order by order."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Generator, Tensor
from torch.func import grad, vjp

ORDERS = (2, 3, 4)
STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
"""Differences of these widths are tried in turn: a wide one is more precise where the function is
smooth, a narrow one is less likely to straddle a kink."""
TRIES = 4
"""Points and directions for a function with kinks."""
OFF = 0.01
"""How far a point is moved off its kinks: a ReLU hands a pooling layer ties at exactly zero."""
TOLERANCE = 1e-5
"""Relative error below which they agree; the wrong kernels are off by percents."""

Scalar = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Order:
    """What was found of one order: the relative ``error`` against finite differences, infinite if
    the derivative could not be computed, and then the ``reason``.
    """

    error: float
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether the derivative can be trusted."""
        return self.error <= TOLERANCE


def derivative_orders(
    function: Scalar, at: Tensor, seed: int = 0, *, kinked: bool = False
) -> dict[int, Order]:
    """The second, third and fourth derivative of a scalar ``function`` at a vector ``at`` (float64)
    along random directions v and r, reverse mode over reverse mode, as φ's solver takes them:

        H v,    ∂/∂r ‖H v‖²,    ∂/∂v ∂/∂r ‖H v‖²

    each against five-point differences of what precedes it in this list (the gradient is first).

    Differences that straddle a kink are those of no derivative. Where the function is ``kinked``, up
    to four points near ``at`` with directions of their own are tried until all orders hold, and each
    order has its least error: one that is wrong is so at all of them.
    """
    if not kinked:
        return _orders(function, at, Generator().manual_seed(seed))
    best: dict[int, Order] = {}
    for n in range(TRIES):
        generator = Generator().manual_seed(seed + n)
        noise = torch.randn(at.shape, generator=generator, dtype=at.dtype, device=at.device)
        for order, this in _orders(function, at + OFF * noise, generator).items():
            if order not in best or this.error < best[order].error:
                best[order] = this
        if all(order.holds for order in best.values()):
            break
    return best


def _orders(function: Scalar, at: Tensor, generator: Generator) -> dict[int, Order]:
    v, r = (_direction(at, generator) for _ in range(2))

    def product(w: Tensor) -> Tensor:
        return vjp(grad(function), w)[1](v)[0]

    def square(w: Tensor) -> Tensor:
        return product(w).square().sum()

    def slope(w: Tensor) -> Tensor:
        return (grad(square)(w) * r).sum()

    def second_slope(w: Tensor) -> Tensor:
        return (grad(slope)(w) * v).sum()

    claims: dict[int, tuple[Scalar, Scalar, Tensor]] = {
        2: (product, grad(function), v),
        3: (slope, square, r),
        4: (second_slope, slope, v),
    }
    return {order: _compare(*claim, at) for order, claim in claims.items()}


def _compare(claimed: Scalar, below: Scalar, direction: Tensor, at: Tensor) -> Order:
    try:
        value, error = claimed(at), inf
        for h in STEPS:
            error = min(error, _relative(value, _along(below, at, direction, h)))
            if error <= TOLERANCE:
                break
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as failure:
        return Order(inf, str(failure).strip().split("\n")[0])
    return Order(error)


def _along(function: Scalar, at: Tensor, direction: Tensor, h: float) -> Tensor:
    near = function(at + h * direction) - function(at - h * direction)
    far = function(at + 2 * h * direction) - function(at - 2 * h * direction)
    return (8 * near - far) / (12 * h)


def _relative(value: Tensor, numeric: Tensor) -> float:
    error = float(((value - numeric).norm() / numeric.norm().clamp_min(1e-4)).detach())
    return error if error == error else inf


def _direction(like: Tensor, generator: Generator) -> Tensor:
    direction = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    return direction / direction.norm()
