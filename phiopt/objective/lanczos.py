"""The eigenvector of the largest absolute eigenvalue, by Lanczos' method."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from phiopt._transforms import numbers, outside_transforms
from phiopt._types import Params
from phiopt.derivatives.layers import joined, split
from phiopt.objective.curvature import Product, Search

NEGLIGIBLE = 10.0
"""Units in the last place of ‖H‖ below which what is left of a product is rounding."""


def lanczos(product: Product, start: Params, iterations: int, tol: float) -> tuple[Params, Search]:
    """H v as a unit vector, for the Ritz vector v of the largest |⟨v, H v⟩|, and how its search ended;
    zero if H start is.

    The Krylov space grows by a product at a time until v is within ``tol`` of an eigenvector (see
    `Ritz`), or to ``iterations`` products. Under ``torch.vmap`` it grows until that holds for all, and
    each has the vector that it would have alone. Products that are not finite are passed on.
    """
    first = joined(start)
    precision = torch.finfo(first.dtype).eps
    basis = [first / first.norm()]
    scale = torch.zeros_like(basis[0].sum())
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    best: Ritz | None = None
    for _ in range(iterations):
        vector = {n: v.to(start[n].dtype) for n, v in split(basis[-1], start).items()}
        fresh = joined(product(vector)).detach().to(first.dtype)
        scale = torch.maximum(scale, fresh.norm())
        diagonal.append(basis[-1] @ fresh)
        for _ in range(2):  # once leaves rounding errors that grow
            for u in basis:
                fresh = fresh - (u @ fresh) * u
        length = fresh.norm()
        exhausted = length <= NEGLIGIBLE * precision * scale
        # From there on directions are zero, and change nothing.
        basis.append(torch.where(exhausted, 0.0, fresh / torch.where(exhausted, 1.0, length)))
        beside.append(torch.where(exhausted, 0.0, length))
        ritz = Ritz.of(diagonal, beside, tol, iterations)
        best = ritz if best is None else ritz.unless_settled(best, tol)
        sines, gaps = numbers(best.sine), numbers(best.gap)
        with outside_transforms():
            if not bool((sines > tol).any()):
                break
    assert best is not None, "there is one iteration at least"
    total = torch.stack([w * u for w, u in zip(best.weights.to(first), basis, strict=False)]).sum(0)
    with outside_transforms():
        errors = torch.maximum(sines, (precision / gaps).clamp_max(1.0))
        unsettled = int((errors > max(tol, precision**0.5)).sum())
        found = Search(len(diagonal), float(errors.max()), unsettled)
    return split(total / total.norm().clamp_min(torch.finfo(total.dtype).tiny), start), found


class Ritz(NamedTuple):
    """H v for the Ritz vector v of a Krylov space with the largest absolute value θ.

    Args:
        weights: H v on the basis vectors.
        sine: That of the angle between v and an eigenvector, at most: r / gap for the residual
            r = ‖H v − θ v‖, if the rest of the spectrum lies where the other Ritz values and their
            residuals say (Parlett, The Symmetric Eigenvalue Problem, section 11.7). It is 1 where
            nothing is known: with one product, as long as another eigenvalue may be that near, and as
            long as the other end of the spectrum may reach further than θ. NaN where a product was not
            finite.
        gap: The distance to the rest of the spectrum, in units of |θ|.
    """

    weights: Tensor
    sine: Tensor
    gap: Tensor

    @classmethod
    def of(cls, diagonal: list[Tensor], beside: list[Tensor], tol: float, most: int) -> Ritz:
        """From the tridiagonal matrix of the space, whose last entry beside the diagonal is that to the
        vector after it. The weights are padded to ``most`` products.
        """
        k = len(diagonal)
        main, off = (torch.stack(part).cpu().double() for part in (diagonal, beside))
        matrix = torch.diag_embed(main)
        if k > 1:
            matrix = matrix + torch.diag_embed(off[:-1], 1) + torch.diag_embed(off[:-1], -1)
        finite = (main + off).isfinite().all()
        # eigh raises at what is not finite.
        values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0.0))
        residuals = off[-1] * vectors[-1].abs()
        place = values.abs().argmax(keepdim=True)
        vector = vectors.gather(1, place.expand(k, 1))[:, 0]
        weights = torch.cat([values.gather(0, place) * vector, off[-1:] * vector[-1:]])
        weights = pad(torch.where(finite, weights, torch.nan), (0, most - k))
        sine, gap = _isolation(values, residuals, place, tol)
        return cls(weights, torch.where(finite, sine, torch.nan), gap)

    def unless_settled(self, before: Ritz, tol: float) -> Ritz:
        """The Ritz vector of before if its sine is small enough, or NaN, else this one."""
        going = before.sine > tol
        pairs = zip(self, before, strict=True)
        return Ritz(*(torch.where(going, now, then) for now, then in pairs))


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
