"""Derivatives of the student's loss beyond the first."""

from phiopt.derivatives.composite import differentiable
from phiopt.derivatives.gauss_newton import gauss_newton
from phiopt.derivatives.hvp import (
    Linearised,
    Product,
    by_autograd,
    dot,
    linearise,
    square_norm,
    watched,
)
from phiopt.derivatives.require import require_derivatives

__all__ = [
    "Linearised",
    "Product",
    "by_autograd",
    "differentiable",
    "dot",
    "gauss_newton",
    "linearise",
    "require_derivatives",
    "square_norm",
    "watched",
]
