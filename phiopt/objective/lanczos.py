"""The eigenvector of the largest absolute eigenvalue, by Lanczos' method."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from phiopt._transforms import numbers, outside_transforms
from phiopt._types import Params
from phiopt._vector import to_params, to_vector
from phiopt.derivatives import Product
from phiopt.derivatives.krylov import Krylov, Ritz
from phiopt.objective.search import Search


def lanczos(product: Product, start: Params, iterations: int, tol: float) -> tuple[Params, Search]:
    """H v as a unit vector, for the Ritz vector v of the largest |⟨v, H v⟩|, and how the search for v ended. The
    result is zero if H times the start is zero.

    The Krylov space grows by one product at a time, until v is within ``tol`` of an eigenvector (see `Extreme`), or
    to ``iterations`` products. Under ``torch.vmap`` it grows until that holds for all, and each result is what it
    would be without ``vmap``. Products that are not finite give a result that is not finite.
    """
    first = to_vector(start)

    def on_vectors(vector: Tensor) -> Tensor:
        named = {n: v.to(start[n].dtype) for n, v in to_params(vector, start).items()}
        return to_vector(product(named)).detach().to(first.dtype)

    space = Krylov(on_vectors, first, orthogonalise=True)
    best: Extreme | None = None
    for _ in range(iterations):
        space.grow()
        extreme = Extreme.of(space.ritz(), tol, iterations)
        best = extreme if best is None else extreme.unless_settled(best, tol)
        sines, gaps = numbers(best.sine), numbers(best.gap)
        with outside_transforms():
            if not bool((sines > tol).any()):
                break
    assert best is not None, "there is one iteration at least"
    weighted = zip(best.weights.to(first), space.basis, strict=False)
    total = torch.stack([weight * vector for weight, vector in weighted]).sum(0)
    precision = torch.finfo(first.dtype).eps
    with outside_transforms():
        errors = torch.maximum(sines, (precision / gaps).clamp_max(1.0))
        unsettled = int((errors > max(tol, precision**0.5)).sum())
        search = Search(len(space.diagonal), float(errors.max()), unsettled)
    return to_params(total / total.norm().clamp_min(torch.finfo(total.dtype).tiny), start), search


class Extreme(NamedTuple):
    """H v for the Ritz vector v of a Krylov space with the largest absolute value θ.

    Args:
        weights: H v on the basis vectors.
        sine: A bound on the sine of the angle between v and an eigenvector: r / gap for the residual
            r = ‖H v − θ v‖, if the rest of the spectrum lies where the other Ritz values and their
            residuals say (Parlett, The Symmetric Eigenvalue Problem, section 11.7). It is 1 where
            nothing is known: after one product, as long as another eigenvalue may be equally near, and as
            long as the other end of the spectrum may reach further than θ. NaN where a product was not
            finite.
        gap: The distance to the rest of the spectrum, in units of |θ|.
    """

    weights: Tensor
    sine: Tensor
    gap: Tensor

    @classmethod
    def of(cls, ritz: Ritz, tol: float, most: int) -> Extreme:
        """The extreme one of all Ritz values. The weights are padded to ``most`` products."""
        place = ritz.values.abs().argmax(keepdim=True)
        vector = ritz.vectors.gather(1, place.expand(len(ritz.values), 1))[:, 0]
        product = ritz.values.gather(0, place) * vector
        weights = torch.cat([product, ritz.link[None] * vector[-1:]])
        weights = pad(torch.where(ritz.finite, weights, torch.nan), (0, most - len(vector)))
        sine, gap = _isolation(ritz.values, ritz.residuals, place, tol)
        return cls(weights, torch.where(ritz.finite, sine, torch.nan), gap)

    def unless_settled(self, before: Extreme, tol: float) -> Extreme:
        """The Ritz vector ``before`` if its sine is small enough or NaN, else this one."""
        going = before.sine > tol
        pairs = zip(self, before, strict=True)
        return Extreme(*(torch.where(going, now, then) for now, then in pairs))


def _isolation(
    values: Tensor, residuals: Tensor, place: Tensor, tol: float
) -> tuple[Tensor, Tensor]:
    """The sine and the gap of the Ritz value at ``place``."""
    theta, residual = values.gather(0, place)[0], residuals.gather(0, place)[0]
    others = torch.arange(len(values), device="cpu") != place
    gap = torch.where(others, (values - theta).abs() - residuals, torch.inf).min()
    if len(values) == 1:
        gap = torch.where(residual > 0, 0.0, gap)
    tiny = torch.finfo(gap.dtype).tiny
    sine = (residual / gap.clamp_min(tiny)).clamp_max(1.0)
    # The other end of the spectrum, measured away from this one.
    far = torch.where(theta > 0, -values[0], values[-1])
    unsure = torch.where(theta > 0, residuals[0], residuals[-1])
    beaten = (far + unsure <= theta.abs()) | (unsure <= tol * theta.abs())
    return torch.where(beaten, sine, 1.0), gap.clamp_min(tiny) / theta.abs().clamp_min(tiny)
