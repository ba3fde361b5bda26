"""An implicit derivative against a difference: the minimiser, solved for again at a point nearby."""

from __future__ import annotations

from math import nan

import torch
from torch import Generator, Tensor

from phiopt._types import Params
from phiopt.bilevel.adjoint import with_inputs
from phiopt.bilevel.linear import CG, LinearStatus
from phiopt.objective import Objective, Sample
from phiopt.solve.certificate import moments
from phiopt.solve.solver import Counted
from phiopt.solve.spectrum import MeanHessian
from phiopt.solve.vector import to_params, to_vector

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
) -> dict[str, float]:
    """The relative error of ``claimed`` along one random direction in each group of inputs
    (``lambdas``, ``neighbourhood``, ``teacher``, ``psi``):

        | w̄ᵀ (w(θ + ε d) − w(θ)) − ε θ̄ᵀ d | / max(ε ‖θ̄‖ ‖d‖ / √k, |difference|)

    for k inputs, w(θ) and w(θ + ε d) found by Newton's method on the same frozen sample, from the
    solution. ε is the fourth root of the precision, relative to the inputs' size. NaN where a
    re-solve finds no minimiser. A group with no direction to move in (a single λ) is left out.
    """
    precision = torch.finfo(cotangent.dtype).eps
    step = precision**0.25
    generator = Generator().manual_seed(0)
    origin = _minimised(with_inputs(objective, theta), params, frozen, step)
    floor = precision**0.5 * step * float(cotangent.norm() * to_vector(params).norm())
    errors = {}
    for group, names in _groups(theta).items():
        direction = _direction({n: theta[n] for n in names}, group, generator)
        length = float(_flat(direction).norm())
        if length == 0:
            continue
        nearby = theta | {n: theta[n] + step * direction[n] for n in names}
        moved = None
        if origin is not None:
            moved = _minimised(with_inputs(objective, nearby), origin, frozen, step)
        if origin is None or moved is None:
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
    objective: Objective, params: Params, frozen: list[Sample], step: float
) -> Params | None:
    """The minimiser near ``params``, by Newton's method; None if the gradient does not fall."""
    counted = Counted(objective)
    precision = torch.finfo(next(iter(params.values())).dtype).eps
    solver = CG(tol=max(1e-10, 10 * precision))
    best, least, first = params, float("inf"), 0.0
    for number in range(STEPS):
        gradient = to_vector(moments(counted, params, frozen).gradient)
        size = float(gradient.norm())
        first = first or size
        if not size < least:
            break  # rounding, or no longer near
        previous, best, least = least, params, size
        if size == 0 or (number > 2 and size > previous / 2):
            break
        hessian, like = MeanHessian(counted, params, frozen), params

        def product(
            vector: Tensor, hessian: MeanHessian = hessian, like: Params = like
        ) -> Tensor:
            return to_vector(hessian(to_params(vector, like)))

        solved = solver(product, gradient)
        if solved.status is LinearStatus.NON_FINITE:
            break
        params = to_params(to_vector(params) - solved.x, params)
    scale = float(to_vector(moments(counted, best, frozen).gradient).norm())
    enough = scale <= REDUCTION * first or scale <= precision**0.5 * step
    return best if enough else None


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
