"""Symmetric linear systems A x = b from products A v, with a status for every answer.

The implicit derivative needs H⁻¹ g, and only products with H are available. A method gives numbers even if
the matrix is not positive definite or the system is not solved. Here the numbers come with a measured
residual, and with a `LinearStatus` that says whether to trust them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from math import frexp, hypot, isfinite, nan, sqrt
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from phiopt._checks import count, fraction, part, positive
from phiopt._types import Function

Operator: TypeAlias = Callable[[Tensor], Tensor]
"""v ↦ A v for a symmetric A; vectors of shape ``(n,)``."""


class LinearStatus(Enum):
    """How the solve of a linear system ended. The member's value says what to do."""

    SOLVED = "The residual fell to the tolerance."
    ITERATION_LIMIT = (
        "The residual was still above the tolerance after all iterations. "
        "Give more iterations, a larger tol, or damp the system."
    )
    INDEFINITE = (
        "A direction of negative or no curvature was met, so the matrix is not positive definite. "
        "Minimise further, or use MINRES or Damped."
    )
    SINGULAR = (
        "The matrix is singular, as far as this precision tells, and the right side is not in its "
        "range. Use Damped, a larger tol or float64, or remove the "
        "parameters on which the objective does not depend."
    )
    STALLED = (
        "By its own recurrence the method has converged, but the measured residual is above the tolerance, because "
        "of rounding. Give a larger tol, or work in float64."
    )
    ASYMMETRIC = (
        "The operator is not symmetric: uᵀA v and vᵀA u differ by more than rounding. A Hessian is "
        "symmetric, so look for what is random or detached in the objective."
    )
    NON_FINITE = "A product or the right side holds NaN or infinity."


@dataclass(frozen=True)
class LinearSolution:
    """An answer to A x = b.

    Args:
        x: The answer, ``(n,)``; to be trusted only if ``status`` is ``LinearStatus.SOLVED``.
        residual: ‖b − A x‖ / ‖b‖, measured by one more product; 0 where b = 0.
        iterations: Iterations made.
        status: Whether the answer can be trusted.
    """

    x: Tensor
    residual: float
    iterations: int
    status: LinearStatus


class LinearSolver(Protocol):
    """A way to solve A x = b."""

    def __call__(self, operator: Operator, b: Tensor) -> LinearSolution:
        """Solve from x = 0. A bad system is reported as a status, never as an exception."""
        ...


class _Scaled(ABC):
    """A method that is given b scaled to a size of about 1, so that squares of its entries neither overflow nor
    vanish. The square of a float32 cotangent of 1e-25 is 0, and so would be the answer.
    """

    def __call__(self, operator: Operator, b: Tensor) -> LinearSolution:
        largest = float(b.abs().max()) if len(b) else 0.0
        if largest == 0:
            return LinearSolution(torch.zeros_like(b), 0.0, 0, LinearStatus.SOLVED)
        if not isfinite(largest):
            return LinearSolution(torch.zeros_like(b), nan, 0, LinearStatus.NON_FINITE)
        size = 2.0 ** (frexp(largest)[1] - 1)  # a power of two rounds nothing
        solution = self._solve(operator, b / size)
        return replace(solution, x=size * solution.x)

    @abstractmethod
    def _solve(self, operator: Operator, b: Tensor) -> LinearSolution: ...


@dataclass(frozen=True)
class _Iterative(_Scaled):
    """A method that stops at a tolerance, or after so many iterations."""

    tol: float = 1e-6
    max_iterations: int = 500

    def __post_init__(self) -> None:
        fraction("tol", self.tol)
        count("max_iterations", self.max_iterations)


@dataclass(frozen=True)
class CG(_Iterative):
    """Conjugate gradients (Hestenes & Stiefel 1952), for positive definite A.

    Stops at the first direction p with pᵀA p ≤ 0, as truncated Newton methods do (Steihaug 1983); the status
    is then ``INDEFINITE``.

    Args:
        tol: Bound on ‖b − A x‖ / ‖b‖; default 1e-6.
        max_iterations: Products at most; default 500.

    Raises:
        ValueError: ``tol`` not in (0, 1), or ``max_iterations`` < 1.

    Examples:
        >>> A = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
        >>> CG()(lambda v: A @ v, torch.ones(2)).x
        tensor([0.5000, 0.2500])
    """

    def _solve(self, operator: Operator, b: Tensor) -> LinearSolution:
        x, residual, direction = torch.zeros_like(b), b, b
        square = size = float(b @ b)
        status, k = LinearStatus.ITERATION_LIMIT, 0
        for k in range(self.max_iterations):
            if square <= (self.tol / 2) ** 2 * size:
                return _measured(operator, b, x, k, LinearStatus.SOLVED, self.tol)
            product = operator(direction)
            curvature = float(direction @ product)
            noise = torch.finfo(b.dtype).eps * float(direction.norm() * product.norm())
            if curvature <= noise:  # also where A p = 0; False for NaN
                status = LinearStatus.INDEFINITE
                break
            if not isfinite(curvature):
                status = LinearStatus.NON_FINITE
                break
            step = square / curvature
            x, residual = x + step * direction, residual - step * product
            previous, square = square, float(residual @ residual)
            direction = residual + square / previous * direction
        else:
            k = self.max_iterations
        return _measured(operator, b, x, k, status, self.tol)


@dataclass(frozen=True)
class MINRES(_Iterative):
    """Minimum residuals (Paige & Saunders 1975), for symmetric A of any sign.

    Arguments and errors are those of `CG`.

    Examples:
        >>> A = torch.tensor([[2.0, 0.0], [0.0, -4.0]])
        >>> MINRES()(lambda v: A @ v, torch.ones(2)).x
        tensor([ 0.5000, -0.2500])
    """

    def _solve(self, operator: Operator, b: Tensor) -> LinearSolution:
        size, eps = float(b.norm()), torch.finfo(b.dtype).eps
        x = old = older = before = torch.zeros_like(b)
        v, rest, beta, largest, skew = b / size, size, 0.0, 0.0, 0.0
        (c_old, s_old), (c, s) = (1.0, 0.0), (1.0, 0.0)  # the last two Givens rotations
        exact = True
        status, k = LinearStatus.ITERATION_LIMIT, 0
        for k in range(self.max_iterations):
            if abs(rest) <= self.tol / 2 * size:
                return _measured(operator, b, x, k, LinearStatus.SOLVED, self.tol)
            # Lanczos: the next column (beta, alpha, following) of the tridiagonal matrix.
            product = operator(v)
            alpha = float(v @ product)
            # Once β is small v consists of rounding, and no v from here on shows a skew part.
            exact = exact and beta >= sqrt(eps) * largest
            if exact:
                skew = max(skew, abs(float(before @ product) - beta))
            product = product - alpha * v - beta * before
            following = float(product.norm())
            if not isfinite(alpha + following):
                status = LinearStatus.NON_FINITE
                break
            # Its QR factorisation: two old rotations, then one that removes `following`.
            epsilon, upper = s_old * beta, c_old * beta
            delta, diagonal = c * upper + s * alpha, c * alpha - s * upper
            gamma = hypot(diagonal, following)
            largest = max(largest, hypot(alpha, following))
            # ‖A r‖ / ‖r‖ of the residual r: where it is 0, r lies outside of A's range.
            slope = hypot(diagonal, c * following)
            if min(gamma, slope) <= 10 * eps * largest:
                status = LinearStatus.SINGULAR
                break
            (c_old, s_old), (c, s) = (c, s), (diagonal / gamma, following / gamma)
            old, older = (v - delta * old - epsilon * older) / gamma, old
            x, rest = x + c * rest * old, -s * rest
            before, v, beta = v, product / (following or 1.0), following
        else:
            k = self.max_iterations
        solution = _measured(operator, b, x, k, status, self.tol)
        if solution.status is not LinearStatus.SOLVED and skew > eps ** (1 / 3) * largest:
            return replace(solution, status=LinearStatus.ASYMMETRIC)
        # A measured residual above that of the recurrence: x has grown along null vectors.
        astray = solution.residual > 2 * abs(rest) / size
        if astray and solution.status is LinearStatus.ITERATION_LIMIT:
            return replace(solution, status=LinearStatus.SINGULAR)
        return solution


@dataclass(frozen=True)
class Damped:
    """(A + μ I) x = b by another solver: for A that is singular or nearly so.

    The answer solves another system. For positive semi-definite A its relative difference from A⁻¹ b is at
    most μ/(μ + least eigenvalue), and components along A's null space are bounded by b/μ. The residual is
    that of the damped system.

    Args:
        damping: μ > 0, in the units of A.
        solver: Of the damped system; default ``CG()``.

    Raises:
        ValueError: ``damping`` is not positive and finite.
        TypeError: ``solver`` cannot be called, or is a class.

    Examples:
        >>> A = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> Damped(1.0)(lambda v: A @ v, torch.ones(2)).x
        tensor([0.5000, 1.0000])
    """

    damping: float
    solver: LinearSolver = field(default_factory=CG)

    def __post_init__(self) -> None:
        positive("damping", self.damping)
        part("solver", self.solver, Function)

    def __call__(self, operator: Operator, b: Tensor) -> LinearSolution:
        return self.solver(lambda v: operator(v) + self.damping * v, b)


def _measured(
    operator: Operator, b: Tensor, x: Tensor, iterations: int, status: LinearStatus, tol: float
) -> LinearSolution:
    """The solution, whose status follows from the measured residual, not from the method's recurrence."""
    residual = float((b - operator(x)).norm() / b.norm())
    if not isfinite(residual):
        status = LinearStatus.NON_FINITE
    elif residual <= tol:
        status = LinearStatus.SOLVED
    elif status is LinearStatus.SOLVED:
        status = LinearStatus.STALLED
    return LinearSolution(x, residual, iterations, status)
