"""Implicit: the derivative of a minimiser from the equation that it satisfies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, nan
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import vjp

from phiopt._transforms import outside_transforms
from phiopt._types import Params
from phiopt._values import flag, fraction, part, positive
from phiopt._vector import to_params, to_vector
from phiopt.bilevel.adjoint import (
    AdjointError,
    attach,
    check_smooth,
    differentiable_inputs,
    with_inputs,
    without_grad,
)
from phiopt.bilevel.linear import CG, LinearSolution, LinearSolver, LinearStatus
from phiopt.bilevel.recheck import recheck
from phiopt.objective import Objective, Sample
from phiopt.solve import Outcome, Solver
from phiopt.solve.certificate import moments
from phiopt.solve.counted import Counted
from phiopt.solve.solver import draws_afresh
from phiopt.solve.spectrum import MeanHessian, flat, spectrum


@dataclass(frozen=True)
class ImplicitReport:
    """What is known of the error of one implicit derivative. ``print(report)`` puts it in words.

    Args:
        gradient_norm: ‖∇_w L‖ at the solution, on its frozen sample; 0 at a minimiser.
        inverse_norm: ‖H⁻¹‖, from the Hessian's least eigenvalue by Lanczos' method; 1/(2μ) with
            damping; infinite where the least eigenvalue is within rounding of 0 and nothing is
            damped; NaN if not computed.
        damping: μ, where flat directions were damped; else 0.
        flat_share: Part of w̄ that lies in the flat directions, ‖w̄ − H x‖ / ‖w̄‖; that part of the
            minimiser is not determined, and its derivative is taken to be 0.
        residual: Relative residual of the linear system.
        errors: Relative error of the derivative along a random direction in each group of inputs,
            by a re-solve; empty if not checked, NaN where the re-solve found no minimiser.
    """

    gradient_norm: float
    inverse_norm: float
    damping: float
    flat_share: float
    residual: float
    errors: dict[str, float]

    @property
    def distance(self) -> float:
        """Bound on the distance to the minimiser, to first order: ‖∇_w L‖ ‖H⁻¹‖."""
        return self.gradient_norm * self.inverse_norm

    @property
    def error(self) -> float:
        """The largest of ``errors``; NaN if there are none or a re-solve failed."""
        values = list(self.errors.values())
        return nan if not values or any(v != v for v in values) else max(values)

    def __str__(self) -> str:
        lines = [
            f"gradient norm {self.gradient_norm:.3g}, times the inverse's norm "
            f"{self.inverse_norm:.3g}: {self.distance:.3g} from the minimiser at most",
            f"linear system: relative residual {self.residual:.3g}",
        ]
        if self.damping:
            lines.append(
                f"flat directions: damped by {self.damping:.3g}; {self.flat_share:.3g} of the "
                "cotangent lies in them"
            )
        for group, error in self.errors.items():
            lines.append(f"{group}: relative error {error:.3g} by a re-solve nearby")
        return "\n".join(lines)


@dataclass(frozen=True)
class Implicit:
    """Differentiate the minimiser itself, whatever path led to it.

    Where ∇_w L(w, θ) = 0 and H = ∂²L/∂w² is invertible, w is a function of θ = (λ, δ, u, ψ) with

        dw/dθ = −H⁻¹ ∂²L/∂w∂θ,   so   θ̄ = −(∂²L/∂w∂θ)ᵀ H⁻¹ w̄

    (implicit function theorem; for hypergradients MacKay et al. 2019, Lorraine, Vicol & Duvenaud
    2020, Pedregosa 2016). One linear system a backward pass, by Hessian-vector products of the
    whole objective; memory does not depend on the number of steps, and with a ``micro_batch`` is that
    of so many examples, but for the last pass where the curvature counts. The start has no influence.

    The solve must be of one function: ``TorchOpt(fresh=False, tol=...)``, `LBFGS` or `NewtonCG`.

    The derivative is checked before it is returned. The minimiser is solved for again at θ and, for
    each group of inputs (λ, δ, u, ψ), at θ + ε d along a random d, by Newton's method on the same
    frozen sample; the difference is compared with the claim. That costs about as much as four
    linear systems, and four more for each group. A Hessian with negative curvature is refused.

    Where L is flat (coordinates that no term reaches, a loss that a scale of the outputs does not
    change) H has no inverse. The system is then damped,

        (H² + μ² I) x = H w̄,   μ = ``damping`` times the largest eigenvalue

    whose solution tends to the one of least norm: flat directions do not move. A direction of curvature
    h loses the share μ²/(h² + μ²).

    Args:
        linear_solver: Of H x = w̄; default ``CG()``, which refuses a point that is no minimum.
        tol: The solution's gradient norm on its frozen sample, over the start's, may be at most
            this; default 1e-4.
        check: Whether to compare the derivative with a re-solve; default True. Without it the report
            holds no error and negative curvature is found only if the linear solver meets it.
        max_error: Relative error by that comparison at most; default 0.01.
        damping: μ over the largest eigenvalue, in (0, 1); default 1e-4.
        report: Called with an `ImplicitReport` after each backward pass, also before a refusal;
            ``print`` prints it. Default None.

    Raises:
        ValueError: The solver draws afresh at each step, the curvature is `Spectral`, ``tol``
            or ``damping`` is not in (0, 1), or ``max_error`` is not positive.
        TypeError: ``linear_solver`` or ``report`` cannot be called or is a class, or ``check`` is no
            bool.
        AdjointError: From the solve, if the solution is not stationary to ``tol``, or in forward
            mode; from the backward pass, if the point is a saddle, the linear system is not solved
            (the message holds its status), the derivative differs from the re-solve by more than
            ``max_error`` or the data have been changed in place; from a second derivative.

    Examples:
        >>> Implicit(CG(tol=1e-8), tol=1e-6).tol
        1e-06
    """

    linear_solver: LinearSolver = field(default_factory=CG)
    tol: float = 1e-4
    check: bool = True
    max_error: float = 0.01
    damping: float = 1e-4
    report: Callable[[ImplicitReport], object] | None = None

    def __post_init__(self) -> None:
        part("linear_solver", self.linear_solver, "__call__")
        fraction("tol", self.tol)
        flag("check", self.check)
        positive("max_error", self.max_error)
        fraction("damping", self.damping)
        if self.report is not None:
            part("report", self.report, "__call__")

    def solve(
        self, solver: Solver, objective: Objective, start: Params, *, seed: int, progress: bool
    ) -> Outcome:
        check_smooth(objective)
        if draws_afresh(solver):
            raise ValueError(
                "adjoint: Implicit needs the minimiser of one function, but solver draws a new "
                "sample at each step; give it fresh=False, or use LBFGS or NewtonCG"
            )
        inputs = differentiable_inputs(objective, start)
        plain, origin = without_grad(objective, start)
        with outside_transforms():
            outcome = solver.solve(plain, origin, seed=seed, progress=progress)
            frozen = outcome.frozen
            if frozen is None:
                raise ValueError(f"adjoint: {type(solver).__name__} reports no frozen sample")
            self._certify(plain, origin, outcome.params, frozen)
        versions = _versions(frozen)

        def pull_back(given: Params, cotangent: Params) -> Params:
            if _versions(frozen) != versions:
                raise AdjointError(
                    "the data have been changed in place since the solve, so that the solution is "
                    "no minimiser on them. Give the solve a copy"
                )
            found = self._cotangents(plain, outcome.params, frozen, given, cotangent)
            return {name: found.get(name, torch.zeros_like(v)) for name, v in given.items()}

        return replace(outcome, params=attach(outcome.params, inputs, pull_back))

    @torch.no_grad()
    def _certify(
        self, objective: Objective, start: Params, params: Params, frozen: list[Sample]
    ) -> None:
        counted = Counted(objective)
        before, after = (moments(counted, w, frozen).gradient_norm for w in (start, params))
        if not after <= self.tol * before:
            raise AdjointError(
                f"the solution's gradient norm is {after / (before or 1.0):.3g} of the start's, "
                f"above Implicit's tol={self.tol:g}: it is not stationary, so the implicit "
                "derivative is of no meaning. Minimise further, raise tol, or use Replay"
            )

    def _cotangents(
        self,
        objective: Objective,
        params: Params,
        frozen: list[Sample],
        inputs: Params,
        cotangent: Params,
    ) -> Params:
        """θ̄ = −(∂²L/∂w∂θ)ᵀ H⁻¹ w̄."""
        theta = {name: v for name, v in inputs.items() if not name.startswith("start.")}
        if not theta:
            return {}
        system = _System.of(with_inputs(objective, theta), params, frozen)
        target = to_vector({name: cotangent[name] for name in params})
        ends = spectrum(system.hessian, params, 0) if self.check else None
        if ends is not None and ends.least < -flat(ends, params):
            raise AdjointError(_saddle(ends.least, ends.largest))

        def judged(damping: float) -> tuple[LinearSolution, Params, ImplicitReport]:
            solved = self._solved(system, target, damping)
            found = {n: torch.zeros_like(v) for n, v in theta.items()}
            errors: dict[str, float] = {}
            if solved.status is LinearStatus.SOLVED:
                found = _partial(objective, params, frozen, theta, solved.x)
                if ends is not None and ends.largest > 0 and self.check:
                    errors = recheck(objective, params, frozen, theta, found, target, ends.largest)
            inverse = nan if ends is None else 1 / ends.least if ends.least > 0 else inf
            missed = float((target - system(solved.x)).norm() / (target.norm() or 1.0))
            report = ImplicitReport(
                gradient_norm=moments(system.counted, params, frozen).gradient_norm,
                inverse_norm=1 / (2 * damping) if damping else inverse,
                damping=damping,
                flat_share=missed if damping else 0.0,
                residual=solved.residual,
                errors=errors,
            )
            return solved, found, report

        solved, found, report = judged(0.0)
        if not self._good(solved, report):
            ends = ends or spectrum(system.hessian, params, 0)
            if ends is not None and ends.least < -flat(ends, params):
                raise AdjointError(_saddle(ends.least, ends.largest))
            if ends is not None and ends.largest > 0 and ends.least <= flat(ends, params):
                damped = judged(self.damping * ends.largest)
                if self._good(damped[0], damped[2]) or solved.status is not LinearStatus.SOLVED:
                    solved, found, report = damped
        if self.report is not None:
            self.report(report)
        if solved.status is not LinearStatus.SOLVED:
            raise AdjointError(
                f"H x = w̄ is not solved after {solved.iterations} iterations, relative residual "
                f"{solved.residual:.3g}. {solved.status.name}: {solved.status.value}"
            )
        if not self._good(solved, report):
            raise AdjointError(_refusal(report, self.max_error))
        return found

    def _good(self, solved: LinearSolution, report: ImplicitReport) -> bool:
        within = all(error <= self.max_error for error in report.errors.values())
        return solved.status is LinearStatus.SOLVED and within

    def _solved(self, system: _System, target: Tensor, damping: float) -> LinearSolution:
        """x of H x = w̄, or of (H² + μ² I) x = H w̄."""

        def squared(vector: Tensor) -> Tensor:
            return system(system(vector)) + damping**2 * vector

        if damping:
            return CG(self.damping**2, 2000)(squared, system(target))
        solved = self.linear_solver(system, target)
        if not isinstance(solved, LinearSolution):
            raise TypeError(
                f"linear_solver: returned {type(solved).__name__}, must return a LinearSolution"
            )
        return solved


@dataclass(frozen=True)
class _System:
    """v ↦ H v on vectors."""

    counted: Counted
    hessian: MeanHessian
    params: Params

    @classmethod
    def of(cls, objective: Objective, params: Params, frozen: list[Sample]) -> _System:
        counted = Counted(objective)
        return cls(counted, MeanHessian(counted, params, frozen), params)

    def __call__(self, vector: Tensor) -> Tensor:
        return to_vector(self.hessian(to_params(vector, self.params)))


def _partial(
    objective: Objective, params: Params, frozen: list[Sample], theta: Params, x: Tensor
) -> Params:
    """−(∂²L/∂w∂θ)ᵀ x."""
    total = {name: torch.zeros_like(value) for name, value in theta.items()}
    for piece, share in (found for sample in frozen for found in objective.pieces(sample)):

        def gradient(t: Params, piece: Sample = piece) -> Params:
            return with_inputs(objective, t).value_and_grad(params, piece)[2]

        pull = cast(Any, vjp(gradient, theta))[1]
        (partial,) = pull(to_params(x, params))
        share /= len(frozen)
        total = {name: sum_ - share * partial[name] for name, sum_ in total.items()}
        del pull, partial  # or its graph would be alive beside the next one's
    return total


def _saddle(least: float, largest: float) -> str:
    return (
        f"the solution is a saddle: the Hessian's least eigenvalue is {least:.3g}, its largest "
        f"{largest:.3g}, so the matrix is INDEFINITE. Minimise further, from another start or with "
        "NewtonCG, which follows negative curvature"
    )


def _refusal(report: ImplicitReport, most: float) -> str:
    worst = [f"{group} by {error:.3g}" for group, error in report.errors.items() if error > most]
    lost = [group for group, error in report.errors.items() if error != error]
    said = [f"differs from a re-solve nearby, relatively, in {', '.join(worst)}"] if worst else []
    if lost:
        said.append(f"cannot be checked in {', '.join(lost)}: no minimiser was found nearby")
    return (
        f"the implicit derivative {' and '.join(said)}, above max_error={most:g}. The solution is "
        f"{report.distance:.3g} from the minimiser at most, by a gradient norm of "
        f"{report.gradient_norm:.3g} and an inverse Hessian of norm {report.inverse_norm:.3g}. "
        "Minimise further (a smaller tol of the solver), solve the system to a smaller tol, work in "
        "float64, raise max_error, or use Replay"
    )


def _versions(samples: list[Sample]) -> list[int]:
    """How often the examples of each have been written to; they may be the caller's own tensors."""
    held = [tensor for sample in samples for tensor in (sample.inputs, sample.targets)]
    return [tensor._version for tensor in held if tensor is not None]
