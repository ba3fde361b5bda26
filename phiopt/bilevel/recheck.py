"""An implicit derivative against a difference: the minimiser, solved for again at a point nearby."""

from __future__ import annotations

from math import inf, nan

import torch
from torch import Generator, Tensor

from phiopt._types import Params
from phiopt._vector import to_params, to_vector
from phiopt.bilevel.adjoint import with_inputs
from phiopt.bilevel.linear import CG, Damped, LinearStatus
from phiopt.objective import Objective, Sample
from phiopt.solve.certificate import moments
from phiopt.solve.counted import Counted
from phiopt.solve.spectrum import MeanHessian

STEPS = 12
"""Newton steps of one re-solve, at most."""

REDUCTION = 1e-3
"""A re-solve has to bring the gradient that the change of θ made below this part of it."""


def recheck(
    objective: Objective,
    params: Params,
    frozen: list[Sample],
    theta: Params,
    claimed: Params,
    cotangent: Tensor,
    largest: float,
) -> dict[str, float]:
    """The relative error of ``claimed`` along one random direction in each group of inputs
    (``lambdas``, ``neighbourhood``, ``teacher``, ``psi``):

        | w̄ᵀ (w(θ + ε d) − w(θ)) − ε θ̄ᵀ d | / max(ε ‖θ̄‖ ‖d‖ / √k, |difference|)

    for k inputs, w(θ) and w(θ + ε d) found by Newton's method on the same frozen sample, from the
    solution, each step damped by √precision times the ``largest`` eigenvalue. ε is the fourth root
    of the precision, relative to the inputs' size. NaN where a re-solve finds no minimiser. A group
    without a direction (a single weight) is left out.
    """
    precision = torch.finfo(cotangent.dtype).eps
    step = precision**0.25
    generator = Generator().manual_seed(0)
    origin, _, left = _minimised(with_inputs(objective, theta), params, frozen, largest)
    floor = precision**0.5 * step * float(cotangent.norm() * to_vector(params).norm())
    errors = {}
    for group, names in _groups(theta).items():
        direction = _direction({n: theta[n] for n in names}, group, generator)
        length = float(_flat(direction).norm())
        if length == 0:
            continue
        nearby = theta | {n: theta[n] + step * direction[n] for n in names}
        moved, made, rest = _minimised(with_inputs(objective, nearby), origin, frozen, largest)
        if not max(left, rest) <= max(REDUCTION * made, precision * largest):
            errors[group] = nan
            continue
        difference = float(cotangent @ (to_vector(moved) - to_vector(origin)))
        slopes = _flat({n: claimed[n] for n in names})
        if group == "lambdas":  # along the simplex, as the direction is
            slopes = slopes - slopes.mean()
        claim = step * float(slopes @ _flat(direction))
        size = step * float(slopes.norm()) * length / len(slopes) ** 0.5
        errors[group] = abs(difference - claim) / max(size, abs(difference), floor)
    return errors


def _minimised(
    objective: Objective, params: Params, frozen: list[Sample], largest: float
) -> tuple[Params, float, float]:
    """The minimiser near ``params`` by Newton's method, and the gradient's norm before and after."""
    counted = Counted(objective)
    precision = torch.finfo(next(iter(params.values())).dtype).eps
    solver = Damped(precision**0.5 * largest, CG(tol=1e-4))
    best, least, first = params, inf, nan
    for number in range(STEPS):
        gradient = to_vector(moments(counted, params, frozen).gradient)
        size = float(gradient.norm())
        first = first if number else size
        if not size < least:
            break  # rounding, or no longer near
        best, least = params, size
        if size == 0:
            break
        hessian, like = MeanHessian(counted, params, frozen), params

        def product(vector: Tensor, hessian: MeanHessian = hessian, like: Params = like) -> Tensor:
            return to_vector(hessian(to_params(vector, like)))

        solved = solver(product, gradient)
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
    """For λ towards a random point of the simplex, else random, as long as the values are."""
    like = _flat(values)
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


def _flat(values: Params) -> Tensor:
    return to_vector(values)
