"""Compare automatic differentiation of a function with finite differences, order by order."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Generator, Tensor
from torch.func import grad, vjp

ORDERS = (2, 3, 4)
STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
"""Widths of differences, tried in turn. A wide difference is more precise where the function is smooth. A narrow one
is less likely to cross a kink."""
TRIES = 4
"""Points and directions for a function with kinks."""
OFF = 0.01
"""Distance by which a point is moved away from kinks. Behind a ReLU, for example, a pooling layer has ties at exactly
zero."""
TOLERANCE = 1e-5
"""Relative error below which derivative and difference agree. Wrong kernels are off by percents."""

Scalar = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Order:
    """An order of derivative, with its relative ``error`` against finite differences. If the derivative could not be
    computed the error is infinite, and ``reason`` says why.
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

    Each is compared with five-point differences of its predecessor in this list; the first predecessor is
    the gradient.

    A difference across a kink approximates no derivative. Where the function is ``kinked``, up to four points near
    ``at`` are tried, each with its own directions, until all orders hold. The error of an order is the least one
    found: a derivative that is wrong is wrong at all points.
    """
    if not kinked:
        return _orders(function, at, Generator().manual_seed(seed))
    best: dict[int, Order] = {}
    for n in range(TRIES):
        generator = Generator().manual_seed(seed + n)
        noise = torch.randn(at.shape, generator=generator, dtype=at.dtype, device=at.device)
        for number, order in _orders(function, at + OFF * noise, generator).items():
            if number not in best or order.error < best[number].error:
                best[number] = order
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
