"""The ends of the Hessian's spectrum, from products H v: minimum or saddle."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, nan

import numpy as np
import scipy
import torch
from torch import Generator

from phiopt._types import Params
from phiopt.derivatives import dot, square_norm
from phiopt.objective import Sample
from phiopt.objective.curvature import Product
from phiopt.solve.solution import Spectrum
from phiopt.solve.solver import Counted

PRODUCTS = 60
"""Hessian-vector products of one search, at most."""
FEWEST = 10
"""Products before a spectrum without a negative end is believed. A random vector in n dimensions holds
1/√n of each eigenvector: next to a spectrum that is nearly one number a first product does not show
the one below zero."""
ACCURACY = 0.01
"""Of the least eigenvalue, where it is not flat."""
FLAT = 1e-4
"""Part of the largest eigenvalue."""


class MeanHessian:
    """v ↦ ∇²L v at ``params``, the mean over the samples.

    One sample's graph is kept between products. Several samples' graphs are made anew for each,
    which costs a gradient more, so that the memory is that of one.
    """

    def __init__(self, objective: Counted, params: Params, samples: list[Sample]) -> None:
        self.objective, self.params, self.samples = objective, params, samples
        self._kept: Product | None = None

    def __call__(self, vector: Params) -> Params:
        total: Params = {}
        for sample in self.samples:
            product = self._at(sample)(vector)
            total = {k: total[k] + p for k, p in product.items()} if total else product
        return {name: value / len(self.samples) for name, value in total.items()}

    def _at(self, sample: Sample) -> Product:
        if len(self.samples) > 1:
            return self.objective.hessian(self.params, sample)
        if self._kept is None:
            self._kept = self.objective.hessian(self.params, sample)
        return self._kept


def spectrum(hessian: Callable[[Params], Params], like: Params, seed: int) -> Spectrum:
    """The ends of the spectrum of a symmetric operator on vectors shaped as ``like``, by Lanczos'
    method (Golub and Van Loan, Matrix Computations, section 10.1) from a random vector.

    The recurrence keeps three vectors and does not reorthogonalise: rounding then brings copies of
    eigenvalues, and none that are false (Paige 1971). It ends once an eigenvalue at the lower end is
    known to 1 %, or to be flat, after 10 products at least if it is not below zero, and after 60 at
    the latest. Of NaN if a product is not finite.
    """
    device = next(iter(like.values())).device
    generator = Generator(device).manual_seed(seed)
    vector = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype, device=device)
        for name, p in like.items()
    }
    vector = _scaled(vector, 1 / float(square_norm(vector).sqrt()))
    previous = _scaled(vector, 0.0)
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        product = hessian(vector)
        diagonal.append(float(dot(product, vector)))
        last = beside[-1] if beside else 0.0
        rest = {
            name: p - diagonal[-1] * vector[name] - last * previous[name]
            for name, p in product.items()
        }
        length = float(square_norm(rest).sqrt())
        if not isfinite(diagonal[-1]) or not isfinite(length):
            return Spectrum(nan, nan, nan, len(diagonal))
        values, vectors = scipy.linalg.eigh_tridiagonal(np.array(diagonal), np.array(beside))
        found = Spectrum(
            least=float(values[0]),
            largest=float(values[-1]),
            residual=length * abs(float(vectors[-1, 0])),
            products=len(diagonal),
        )
        negligible = flat(found, like)
        known = found.residual <= max(ACCURACY * abs(found.least), negligible)
        looked = found.least < -negligible or len(diagonal) >= FEWEST
        exhausted = length <= 10 * _precision(like) * _size(found)  # nothing but rounding is left
        if (known and looked) or exhausted or len(diagonal) == PRODUCTS:
            return found
        beside.append(length)
        previous, vector = vector, _scaled(rest, 1 / length)


def flat(found: Spectrum, like: Params) -> float:
    """The size of an eigenvalue that counts as zero next to the largest in size: a point found to a
    finite tolerance is no more certain of its curvature, nor is one in finite precision.
    """
    return max(FLAT, _precision(like) ** 0.5) * _size(found)


def _size(found: Spectrum) -> float:
    return max(abs(found.least), abs(found.largest))


def _precision(like: Params) -> float:
    return torch.finfo(next(iter(like.values())).dtype).eps


def _scaled(vector: Params, factor: float) -> Params:
    return {name: value * factor for name, value in vector.items()}
