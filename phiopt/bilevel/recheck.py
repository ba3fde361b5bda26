"""Check an implicit derivative against a difference of minimisers."""

from __future__ import annotations

from math import inf, nan

import torch
from torch import Generator, Tensor

from phiopt._types import Params
from phiopt._vector import to_params, to_vector
from phiopt.bilevel.linear import CG, Damped, LinearStatus
from phiopt.bilevel.stationary import StationaryPoint
from phiopt.solve.certificate import moments

STEPS = 12
"""Newton steps of one re-solve, at most."""

REDUCTION = 1e-3
"""A re-solve has to reduce the gradient that the change of θ caused to this share."""


def recheck(
    point: StationaryPoint, claimed: Params, cotangent: Tensor, largest: float
) -> dict[str, float]:
    """The relative error of the derivative ``claimed`` at a stationary point, along a random direction in each group
    of inputs (``lambdas``, ``neighbourhood``, ``teacher``, ``psi``):

        | w̄ᵀ (w(θ + ε d) − w(θ)) − ε θ̄ᵀ d | / max(ε ‖θ̄‖ ‖d‖ / √k, |difference|)

    for k inputs. Newton's method finds w(θ) and w(θ + ε d) on the same frozen sample, from the solution;
    each step is damped by √precision times the ``largest`` eigenvalue. ε is the fourth root of the
    precision, relative to the inputs' size. The error is NaN where a re-solve finds no minimiser. A group
    without a direction (a single weight) is left out.
    """
    theta, params = point.theta, point.params
    precision = torch.finfo(cotangent.dtype).eps
    step = precision**0.25
    generator = Generator().manual_seed(0)
    origin, _, norm = _minimised(point, theta, params, largest)
    floor = precision**0.5 * step * float(cotangent.norm() * to_vector(params).norm())
    errors = {}
    for group, names in _groups(theta).items():
        direction = _direction({n: theta[n] for n in names}, group, generator)
        length = float(to_vector(direction).norm())
        if length == 0:
            continue
        nearby = theta | {n: theta[n] + step * direction[n] for n in names}
        moved, caused, norm_nearby = _minimised(point, nearby, origin, largest)
        if not max(norm, norm_nearby) <= max(REDUCTION * caused, precision * largest):
            errors[group] = nan
            continue
        difference = float(cotangent @ (to_vector(moved) - to_vector(origin)))
        gradients = to_vector({n: claimed[n] for n in names})
        if group == "lambdas":  # along the simplex, as the direction is
            gradients = gradients - gradients.mean()
        claim = step * float(gradients @ to_vector(direction))
        size = step * float(gradients.norm()) * length / len(gradients) ** 0.5
        errors[group] = abs(difference - claim) / max(size, abs(difference), floor)
    return errors


def _minimised(
    point: StationaryPoint, theta: Params, params: Params, largest: float
) -> tuple[Params, float, float]:
    """The minimiser at θ near ``params`` by Newton's method, on the point's samples, and the gradient's norm
    before and after.
    """
    precision = torch.finfo(next(iter(params.values())).dtype).eps
    solver = Damped(precision**0.5 * largest, CG(tol=1e-4))
    best, least, first = params, inf, nan
    for number in range(STEPS):
        here = StationaryPoint.of(point.objective, params, point.samples, theta)
        gradient = to_vector(moments(here.counted, params, here.samples).gradient)
        size = float(gradient.norm())
        first = first if number else size
        if not size < least:
            break  # by rounding, or too far away
        best, least = params, size
        if size == 0:
            break
        solved = solver(here.product, gradient)
        if solved.status is LinearStatus.NON_FINITE:
            break
        params = to_params(to_vector(params) - solved.x, params)
    return best, first, least


def _groups(theta: Params) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in theta:
        groups.setdefault(name.split(".")[0], []).append(name)
    return groups


def _direction(values: Params, group: str, generator: Generator) -> Params:
    """A random direction as long as the values; for λ, towards a random point of the simplex."""
    like = to_vector(values)
    random = torch.randn(len(like), generator=generator, dtype=torch.float64).to(like)
    if group == "lambdas":
        shares = random.exp() / random.exp().sum()
        flat = shares * like.sum() - like
        flat = flat - flat.mean()
    else:
        size = float(like.norm()) or 1.0
        flat = random * size / random.norm()
    pieces = flat.split([v.numel() for v in values.values()])
    return {n: p.view(v.shape) for (n, v), p in zip(values.items(), pieces, strict=True)}
