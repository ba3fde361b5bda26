"""The ends of the Hessian's spectrum, which tell a minimum from a saddle, from products H v."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan

import torch
from torch import Generator, Tensor

from phiopt._types import Params
from phiopt._vector import to_params, to_vector
from phiopt.derivatives import Product
from phiopt.derivatives.krylov import Krylov
from phiopt.objective import Sample
from phiopt.solve.counted import Counted

PRODUCTS = 60
"""Hessian-vector products of one search, at most."""
FEWEST = 10
"""Least number of products for a spectrum without a negative end. A random vector in n dimensions has a part of
1/√n along each eigenvector. If nearly all eigenvalues are equal, the first products do not show a single negative
eigenvalue."""
ACCURACY = 0.01
"""Relative accuracy of the least eigenvalue, where it is not flat."""
FLAT = 1e-4
"""Size of a flat eigenvalue, over that of the largest."""


@dataclass(frozen=True)
class Spectrum:
    """The two ends of a Hessian's spectrum, by Lanczos' method.

    Args:
        least: An upper bound of the least eigenvalue, vᵀHv at a unit vector v. If it is negative, so is the
            eigenvalue.
        largest: A lower bound of the largest.
        residual: ‖H v − least v‖: an eigenvalue lies within it of ``least``.
        products: Hessian-vector products spent.
    """

    least: float
    largest: float
    residual: float
    products: int


class MeanHessian:
    """v ↦ ∇²L v at ``params``, the mean over the samples.

    The graph of a single sample is kept between products. The graphs of several samples are made anew for each
    product. That costs one more gradient, and needs memory for one sample only.
    """

    def __init__(self, objective: Counted, params: Params, samples: Sequence[Sample]) -> None:
        self.objective, self.params, self.samples = objective, params, samples
        self._product: Product | None = None

    def __call__(self, vector: Params) -> Params:
        total: Params = {}
        for sample in self.samples:
            product = self._at(sample)(vector)
            total = {k: total[k] + p for k, p in product.items()} if total else product
        return {name: value / len(self.samples) for name, value in total.items()}

    def _at(self, sample: Sample) -> Product:
        if len(self.samples) > 1:
            return self.objective.hessian(self.params, sample)
        if self._product is None:
            self._product = self.objective.hessian(self.params, sample)
        return self._product


def spectrum(hessian: Callable[[Params], Params], like: Params, seed: int) -> Spectrum:
    """The ends of the spectrum of a symmetric operator on vectors shaped as ``like``, by Lanczos' method from a
    random vector (see `Krylov`). Three vectors are kept at a time.

    The search ends once an eigenvalue at the lower end is known to 1 %, or is known to be flat. It takes 10 products
    at least if that eigenvalue is not negative, and 60 at most. The ends are NaN if a product is not finite.
    """
    device = next(iter(like.values())).device
    generator = Generator(device).manual_seed(seed)
    first = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype, device=device)
        for name, p in like.items()
    }

    def on_vectors(vector: Tensor) -> Tensor:
        named = {name: v.to(like[name].dtype) for name, v in to_params(vector, like).items()}
        return to_vector(hessian(named))

    space = Krylov(on_vectors, to_vector(first), orthogonalise=False)
    while True:
        space.grow()
        ritz = space.ritz()
        products = len(space.diagonal)
        if not ritz.finite:
            return Spectrum(nan, nan, nan, products)
        ends = Spectrum(
            least=float(ritz.values[0]),
            largest=float(ritz.values[-1]),
            residual=float(ritz.residuals[0]),
            products=products,
        )
        negligible = flat(ends, like)
        accurate = ends.residual <= max(ACCURACY * abs(ends.least), negligible)
        believed = ends.least < -negligible or products >= FEWEST
        if (accurate and believed) or space.exhausted or products == PRODUCTS:
            return ends


def flat(ends: Spectrum, like: Params) -> float:
    """The size below which an eigenvalue counts as zero: the uncertainty that the solve's tolerance and precision
    leave.
    """
    return max(FLAT, _precision(like) ** 0.5) * _size(ends)


def _size(ends: Spectrum) -> float:
    return max(abs(ends.least), abs(ends.largest))


def _precision(like: Params) -> float:
    return torch.finfo(next(iter(like.values())).dtype).eps
