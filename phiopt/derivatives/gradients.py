"""Whether the gradient that PyTorch gives is the gradient of the function.

Where a part of a function is detached, rounded or differentiated by hand, the gradient may miss how the value changes
with the parameters. A difference of values does not depend on the graph:

    (f(w + h d) − f(w − h d)) / 2h   against   ⟨∇f(w), d⟩      along random directions d
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import isfinite
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.func import grad_and_value

from phiopt._types import Params

Function = Callable[[Params], Tensor]

STEPS = {torch.float64: (1e-6, 1e-5, 1e-7, 1e-4), torch.float32: (1e-2, 3e-2, 3e-3)}
"""Widths of the differences, relative to each parameter's size. A narrow difference is less likely to straddle a
kink."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}
"""Relative error below which a slope and a difference agree."""
NOISE = 64.0
"""Units in the last place by which rounding may move a value."""
POINTS = 2
"""Number of points. A gradient is called wrong if it is wrong at each of them."""
REFUSALS = (RuntimeError, ValueError, IndexError, ArithmeticError)
"""Exceptions that a function may raise at a point where it is not defined."""
VANISHED = 1e-15
"""Slope below which a value of exactly zero has only lost, by rounding, what the gradient still shows."""
NEAR = (0.05, 0.005, 0.0)
"""Distances of a point from the start, relative to each parameter's size. At the start itself many parameters are
zero, and many activations lie on a kink."""
LEAST, NONE = 1e-3, 0.1
"""Least size of a parameter, and the size of a parameter whose values are all zero."""


class Mismatch(NamedTuple):
    """Along some direction the function changes by ``difference``, but its gradient by ``slope``."""

    slope: float
    difference: float


def mismatch(function: Function, params: Params, seed: int = 0) -> Mismatch | None:
    """How the gradient of ``function`` is wrong near ``params``; None if no error is seen.

    ``params`` are float64, or float32, where fewer errors are seen. If the gradient is right, the check costs a
    gradient and five to seven values. Where the function has kinks or jumps, its gradient need only be right almost
    everywhere. A difference across a kink proves nothing, nor does one across many waves. So the gradient is called
    wrong only if at two points the differences of two widths agree with each other and not with the gradient. A
    random function is not examined.
    """
    wrong = None
    for number in range(POINTS):
        random = _directions(params, Generator().manual_seed(seed + number))
        near, value = _generic(function, params, random)
        if not isfinite(value):
            return None
        wrong = _mismatch_at(function, _Ray(params, random, near), value)
        if wrong is None:
            return None
    return wrong


class _Ray(NamedTuple):
    """A point near ``params``, in the direction ``random``, and points next to that one. None is kept: for a large
    model each is as large as the model.
    """

    params: Params
    random: Params
    near: float

    def moved(self, by: float = 0.0, factors: Mapping[str, float] | None = None) -> Params:
        """The point moved in the direction ``random``, each parameter by its factor."""
        point = {}
        for name, p in self.params.items():
            r = self.random[name]
            point[name] = p + self.near * r
            if by:
                point[name] += by * (factors[name] if factors else 1.0) * r
        return point


def _generic(function: Function, params: Params, random: Params) -> tuple[float, float]:
    """How far from ``params``, in the direction ``random``, there is a point with a finite value, and that value."""
    value = float("nan")
    for near in NEAR:
        point = _Ray(params, random, near).moved()
        value = _value(function, point) if near == 0 else _accepted(function, point)
        if isfinite(value):
            return near, value
    return 0.0, value


def _accepted(function: Function, point: Params) -> float:
    """The value, or NaN if the function raises an error at the point. An error that a second call does not repeat is
    raised.
    """
    try:
        return _value(function, point)
    except REFUSALS:
        try:
            _value(function, point)
        except REFUSALS:
            return float("nan")
        raise


def _mismatch_at(function: Function, ray: _Ray, value: float) -> Mismatch | None:
    point = ray.moved()
    gradient, claimed = grad_and_value(function)(point)
    dtype = next(iter(point.values())).dtype
    if abs(float(claimed) - value) > TOLERANCE[dtype] * abs(value):
        return None  # the function is random
    if not all(part.isfinite().all() for part in gradient.values()):
        return None  # the solver reports it
    sizes = {name: float((gradient[name] * _size(p)).norm()) for name, p in point.items()}
    del point
    whole = sum(size**2 for size in sizes.values()) ** 0.5
    for factors, least in _weightings(sizes, whole):
        wrong = _along(function, ray, value, gradient, factors, least)
        if wrong is not None:
            return wrong
    return None


def _weightings(sizes: dict[str, float], whole: float) -> list[tuple[dict[str, float], float]]:
    """Directions to look along: the factor of each parameter, and the least slope that counts. First all factors are
    equal. Then parameters with a small gradient have larger factors, so that large gradients do not hide theirs.
    Then only parameters with a gradient of zero move.
    """
    scalings = [(dict.fromkeys(sizes, 1.0), 0.0)]
    some = [size for size in sizes.values() if size > 0]
    if some:
        low = max(min(some), 1e-4 * max(some))
        if low < 0.03 * max(some):
            scalings.append(({n: low / max(size, low) for n, size in sizes.items()}, 0.0))
    if len(some) < len(sizes):
        single = {name: float(size == 0) for name, size in sizes.items()}
        scalings.append((single, 1e-3 * whole))
    return scalings


def _along(
    function: Function,
    ray: _Ray,
    value: float,
    gradient: Params,
    factors: Mapping[str, float],
    least: float,
) -> Mismatch | None:
    """The gradient against differences along the ray, each parameter multiplied by its factor."""
    dtype = next(iter(gradient.values())).dtype
    products = (factors[name] * gradient[name] * r for name, r in ray.random.items())
    sums = [(product.sum(), product.square().sum()) for product in products]
    slope = float(sum(each for each, _ in sums))
    spread = float(sum(square for _, square in sums)) ** 0.5
    if value == 0 and spread < VANISHED:
        return None
    departures: list[tuple[float, float, float]] = []
    for step in STEPS[dtype]:
        up = _accepted(function, ray.moved(step, factors))
        down = _accepted(function, ray.moved(-step, factors))
        difference = (up - down) / (2 * step)
        if not isfinite(difference):
            continue
        # The slopes on the two sides differ by a kink or a jump, by curvature and by rounding.
        sides = abs(up - 2 * value + down) / step
        noise = NOISE * torch.finfo(dtype).eps * max(abs(up), abs(down), abs(value)) / step
        scale = max(spread + abs(difference), least)
        error = abs(difference - slope)
        if error <= TOLERANCE[dtype] * scale + noise:
            if noise <= 0.01 * scale or error == 0:
                return None
        elif error > 3 * sides + noise:
            departures.append((difference, error, noise))
    for (wide, first, rough), (narrow, second, rougher) in pairwise(departures):
        alike = 0.5 * max(abs(wide), abs(narrow)) + rough + rougher
        if abs(wide - narrow) <= min(0.1 * min(first, second), alike):
            return Mismatch(slope, narrow)
    return None


def unsteady(function: Function, params: Params) -> tuple[float, float] | None:
    """The value where no gradient is recorded, and the value where one is. None if the two are equal, or if the
    function is random.

    A solver compares iterates by the first value, and follows the gradient of the second.
    """
    dtype = next(iter(params.values())).dtype

    def unrecorded() -> float:
        with torch.no_grad():
            return float(function({name: p.detach() for name, p in params.items()}))

    recorded, without = _value(function, params), unrecorded()
    rounding = 10 * TOLERANCE[dtype] * max(abs(recorded), abs(without))
    if not abs(recorded - without) > rounding or not isfinite(recorded - without):
        return None
    again = _value(function, params), unrecorded()
    random = max(abs(again[0] - recorded), abs(again[1] - without)) > rounding
    return None if random else (without, recorded)


def _value(function: Function, params: Params) -> float:
    """The value, computed while a gradient is recorded. User code may ask whether one is."""
    with torch.enable_grad():
        value = function({name: p.detach().requires_grad_() for name, p in params.items()})
    return float(value.detach())


def _size(parameter: Tensor) -> float:
    """The root mean square of a parameter's values."""
    size = float(parameter.square().mean().sqrt()) if parameter.numel() else 0.0
    return max(size, LEAST) if size else NONE


def _directions(params: Params, generator: Generator) -> Params:
    """A random direction, in which each parameter moves in proportion to its size. Float32 takes half the memory."""
    direction = {}
    for name, p in params.items():
        random = torch.randn(p.shape, generator=generator, dtype=torch.float32, device="cpu")
        direction[name] = random.to(p.device).mul_(_size(p))
    return direction
