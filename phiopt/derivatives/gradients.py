"""Whether the gradient that PyTorch gives is the gradient of the function.

A function of which a part is detached, rounded or differentiated by hand has a value that moves with
its parameters, and a gradient that does not say so. A difference of values knows nothing of graphs:

    (f(w + h d) − f(w − h d)) / 2h   against   ⟨∇f(w), d⟩      along random directions d
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import isfinite
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.func import grad_and_value

from phiopt._types import Params
from phiopt.derivatives.hvp import dot

Function = Callable[[Params], Tensor]

STEPS = {torch.float64: (1e-6, 1e-5, 1e-7, 1e-4), torch.float32: (1e-2, 3e-2, 3e-3)}
"""Widths of the differences, relative to each parameter's size: a narrow one is less likely to
straddle a kink."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}
"""Relative error of the slope below which it agrees."""
NOISE = 64.0
"""A value is taken to be rounded by up to so many units in the last place."""
POINTS = 2
"""A gradient is wrong if it is so at each."""
REFUSALS = (RuntimeError, ValueError, IndexError, ArithmeticError)
"""What a function may raise at a point that it is not defined at."""
NEAR = (0.05, 0.005, 0.0)
"""How far a point is moved off the start, relative to each parameter's size, where the function is
finite: at the start itself many parameters are zero, and many activations lie on a kink."""
LEAST, NONE = 1e-3, 0.1
"""The size that a parameter of smaller values is taken to have, and one whose values are all zero."""


class Mismatch(NamedTuple):
    """Along some direction the function changes by ``difference``, and the gradient says ``slope``."""

    slope: float
    difference: float


def mismatch(function: Function, params: Params, seed: int = 0) -> Mismatch | None:
    """How the gradient of ``function`` is wrong near ``params``, or None where nothing says so.

    ``params`` are float64, or float32, where less is seen. The cost is a gradient and five to seven
    values where the gradient is right. Where the function has kinks or jumps, its gradient is right
    if it is so almost everywhere: a difference that straddles a kink proves nothing, and a wrong
    gradient is one from which the differences of two widths depart alike, at two points. A function
    that is not the same at each call is not judged.
    """
    wrong = None
    for number in range(POINTS):
        random = _directions(params, Generator().manual_seed(seed + number))
        point, value = _generic(function, params, random)
        if not isfinite(value):
            return None
        wrong = _mismatch_at(function, point, value, random)
        if wrong is None:
            return None
    return wrong


def _generic(function: Function, params: Params, random: Params) -> tuple[Params, float]:
    """A point near ``params``, off it along ``random``, and the value there."""
    value = float("nan")
    for scale in NEAR:
        point = _moved(params, random, scale)
        value = _value(function, point) if scale == 0 else _accepted(function, point)
        if isfinite(value):
            return point, value
    return params, value


def _accepted(function: Function, point: Params) -> float:
    """The value, or NaN where the function refuses the point. An error that does not come again is no
    refusal, and goes through.
    """
    try:
        return _value(function, point)
    except REFUSALS:
        try:
            _value(function, point)
        except REFUSALS:
            return float("nan")
        raise


def _mismatch_at(
    function: Function, point: Params, value: float, random: Params
) -> Mismatch | None:
    gradient, claimed = grad_and_value(function)(point)
    dtype = next(iter(point.values())).dtype
    if abs(float(claimed) - value) > TOLERANCE[dtype] * abs(value):
        return None  # another function at each call
    if not all(part.isfinite().all() for part in gradient.values()):
        return None  # for the solver to say
    sizes = {name: float((gradient[name] * _size(p)).norm()) for name, p in point.items()}
    whole = sum(size**2 for size in sizes.values()) ** 0.5
    for factors, least in _weightings(sizes, whole):
        direction = {name: factors[name] * random[name] for name in random}
        wrong = _along(function, point, value, gradient, direction, least)
        if wrong is not None:
            return wrong
    return None


def _weightings(sizes: dict[str, float], whole: float) -> list[tuple[dict[str, float], float]]:
    """Factors of the parameters in a direction, and the least slope that counts there: all alike;
    those with a small gradient more, so that large ones do not hide them; those with none alone.
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
    point: Params,
    value: float,
    gradient: Params,
    direction: Params,
    least: float,
) -> Mismatch | None:
    dtype = next(iter(point.values())).dtype
    slope = float(dot(gradient, direction))
    spread = float(sum(((gradient[n] * direction[n]) ** 2).sum() for n in direction)) ** 0.5
    apart: list[tuple[float, float]] = []
    for step in STEPS[dtype]:
        up = _accepted(function, _moved(point, direction, step))
        down = _accepted(function, _moved(point, direction, -step))
        difference = (up - down) / (2 * step)
        if not isfinite(difference):
            continue
        # Both sides differ by a kink between, by curvature, by rounding, by a jump.
        sides = abs(up - 2 * value + down) / step
        noise = NOISE * torch.finfo(dtype).eps * max(abs(up), abs(down), abs(value)) / step
        scale = max(spread + abs(difference), least)
        error = abs(difference - slope)
        if error <= TOLERANCE[dtype] * scale + noise:
            if noise <= 0.01 * scale or error == 0:
                return None
        elif error > 3 * sides + noise:
            apart.append((difference, error))
    for (wide, first), (narrow, second) in pairwise(apart):
        if abs(wide - narrow) <= 0.1 * min(first, second):
            return Mismatch(slope, narrow)
    return None


def unsteady(function: Function, params: Params) -> tuple[float, float] | None:
    """The values without and with a gradient being recorded, or None where they are alike or the
    function is not the same at each call.

    Solvers compare iterates by the one, and go by the gradient of the other.
    """
    dtype = next(iter(params.values())).dtype

    def still() -> float:
        with torch.no_grad():
            return float(function({name: p.detach() for name, p in params.items()}))

    loud, quiet = _value(function, params), still()
    rounding = 10 * TOLERANCE[dtype] * max(abs(loud), abs(quiet))
    if not abs(loud - quiet) > rounding or not isfinite(loud - quiet):
        return None
    random = abs(still() - quiet) > rounding or abs(_value(function, params) - loud) > rounding
    return None if random else (quiet, loud)


def _value(function: Function, params: Params) -> float:
    """Computed as for a gradient: user code may ask whether one is being recorded."""
    with torch.enable_grad():
        value = function({name: p.detach().requires_grad_() for name, p in params.items()})
    return float(value.detach())


def _size(parameter: Tensor) -> float:
    """The root mean square of its values."""
    size = float(parameter.square().mean().sqrt()) if parameter.numel() else 0.0
    return max(size, LEAST) if size else NONE


def _directions(params: Params, generator: Generator) -> Params:
    """Random, each parameter's of its own size."""
    direction = {}
    for name, p in params.items():
        random = torch.randn(p.shape, generator=generator, dtype=torch.float32, device="cpu")
        direction[name] = _size(p) * random.to(p.device, p.dtype)
    return direction


def _moved(params: Params, direction: Params, by: float) -> Params:
    return {name: p + by * direction[name] for name, p in params.items()}
