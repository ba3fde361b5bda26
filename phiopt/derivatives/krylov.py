"""Lanczos' method: eigenvalues of a symmetric H from products H v.

Golub and Van Loan, Matrix Computations, section 10.1. The Krylov space of H and a first vector grows by one product at
a time. On this space H is a tridiagonal matrix. Its eigenvalues, the Ritz values, approach those of H, first at the
ends of the spectrum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

NEGLIGIBLE = 10.0
"""Units in the last place of ‖H‖ below which the rest of a product counts as rounding."""


class Krylov:
    """The Krylov space of v ↦ H v from a first vector, on vectors of shape ``(n,)``.

    It works for many at once too, under ``torch.vmap``.

    Args:
        product: v ↦ H v.
        start: The first vector, not zero.
        orthogonalise: True: each new vector is made orthogonal to all vectors before it. These are kept in
            ``basis``, so that eigenvectors can be composed of them. False: it is made orthogonal to the last two,
            and only these are kept. Rounding then gives copies of eigenvalues, but no false ones (Paige 1971).
    """

    def __init__(
        self, product: Callable[[Tensor], Tensor], start: Tensor, *, orthogonalise: bool
    ) -> None:
        self.product, self.orthogonalise = product, orthogonalise
        self.basis = [start / start.norm()]
        self.diagonal: list[Tensor] = []
        self.beside: list[Tensor] = []
        """Norms of the rests of the products, beside the diagonal. The last links the space to the next vector."""
        self.exhausted = torch.zeros_like(start.sum(), dtype=torch.bool)
        """Whether the rest of the last product was nothing but rounding."""
        self._scale = torch.zeros_like(start.sum())

    def grow(self) -> None:
        """Add one product to the space. Where the space is exhausted the new vector is zero."""
        vector = self.basis[-1]
        rest = self.product(vector)
        self._scale = torch.maximum(self._scale, rest.norm())
        self.diagonal.append(vector @ rest)
        if self.orthogonalise:
            for _ in range(2):  # once leaves rounding errors that grow
                for u in self.basis:
                    rest = rest - (u @ rest) * u
        else:
            rest = rest - self.diagonal[-1] * vector
            if self.beside:
                rest = rest - self.beside[-1] * self.basis[-2]
            self.basis = self.basis[-1:]
        length = rest.norm()
        self.exhausted = length <= NEGLIGIBLE * torch.finfo(rest.dtype).eps * self._scale
        self.basis.append(torch.where(self.exhausted, 0.0, rest / _or_one(length, self.exhausted)))
        self.beside.append(torch.where(self.exhausted, 0.0, length))

    def ritz(self) -> Ritz:
        """The Ritz values after the last product."""
        main, off = (torch.stack(part).cpu().double() for part in (self.diagonal, self.beside))
        matrix = torch.diag_embed(main)
        if len(self.diagonal) > 1:
            matrix = matrix + torch.diag_embed(off[:-1], 1) + torch.diag_embed(off[:-1], -1)
        finite = (main + off).isfinite().all()
        # eigh raises at what is not finite.
        values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0.0))
        return Ritz(values, vectors, off[-1] * vectors[-1].abs(), off[-1], finite)


class Ritz(NamedTuple):
    """The eigenvalues of H on a Krylov space of k dimensions, in float64 on the CPU.

    Args:
        values: ``(k,)``, ascending.
        vectors: ``(k, k)``, in columns, by the basis of the space.
        residuals: ‖H v − θ v‖ for each value θ and its vector v.
        link: The norm of the part of H times the last basis vector that lies outside the space.
        finite: Whether all products were finite. If not, the numbers mean nothing.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    link: Tensor
    finite: Tensor


def _or_one(length: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, 1.0, length)
