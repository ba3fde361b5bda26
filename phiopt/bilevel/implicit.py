"""Implicit differentiation: the derivative of a minimiser, from the equation that it satisfies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf, nan
from typing import NamedTuple

import torch
from torch import Tensor

from phiopt._checks import flag, fraction, part, positive
from phiopt._inputs import entries_of
from phiopt._transforms import outside_transforms
from phiopt._types import Function, Params
from phiopt._vector import to_vector
from phiopt.bilevel.adjoint import (
    AdjointError,
    attach,
    check_smooth,
    differentiable_inputs,
    without_grad,
)
from phiopt.bilevel.implicit_report import ImplicitReport, refusal, saddle
from phiopt.bilevel.linear import CG, LinearSolution, LinearSolver, LinearStatus
from phiopt.bilevel.recheck import recheck
from phiopt.bilevel.stationary import StationaryPoint
from phiopt.objective import Objective, Sample
from phiopt.solve import Outcome, Solver, Status
from phiopt.solve.certificate import moments
from phiopt.solve.counted import Counted
from phiopt.solve.solver import draws_afresh
from phiopt.solve.spectrum import Spectrum, flat, spectrum


@dataclass(frozen=True)
class Implicit:
    """Differentiate the minimiser itself. The solver's path does not matter.

    Where ∇_w L(w, θ) = 0 and H = ∂²L/∂w² is invertible, w is a function of θ = (λ, δ, u, ψ) with

        dw/dθ = −H⁻¹ ∂²L/∂w∂θ,   so   θ̄ = −(∂²L/∂w∂θ)ᵀ H⁻¹ w̄

    (implicit function theorem; for hypergradients MacKay et al. 2019, Lorraine, Vicol & Duvenaud 2020, Pedregosa
    2016). A backward pass solves one linear system, by Hessian-vector products of the whole objective. Memory does
    not depend on the number of steps. With a ``micro_batch`` it is that of so many examples, except in the last pass
    where the curvature has weight. The derivative in the start is 0.

    The solver must minimise one function: ``TorchOpt(fresh=False, tol=...)``, `LBFGS` or `NewtonCG`.

    The derivative is checked before it is returned. Newton's method finds the minimiser on the same frozen
    sample again, at θ and, for each group of inputs (λ, δ, u, ψ), at θ + ε d along a random d. The
    difference of the minimisers is compared with the derivative. The check costs about as much as four
    linear systems, and four more for each group. A Hessian with negative curvature is refused.

    Where L is flat H has no inverse: some coordinates may have no part in any term, or the loss may not change with
    the scale of the outputs. The system is then damped:

        (H² + μ² I) x = H w̄,   μ = ``damping`` times the largest eigenvalue

    Its solution is near the solution of least norm, so flat directions do not move. A direction of curvature h loses
    the share μ²/(h² + μ²).

    Args:
        linear_solver: Solves H x = w̄; default ``CG()``, which refuses a point that is no minimum.
        tol: Largest gradient norm of the solution on its frozen sample, over that of the start; default 1e-4.
        check: Whether to compare the derivative with a re-solve; default True. If False, the report holds
            no error, and negative curvature is found only if the linear solver meets it.
        max_error: Largest relative error in that comparison; default 0.01.
        damping: μ over the largest eigenvalue, in (0, 1); default 1e-4.
        report: Called with an `ImplicitReport` after each backward pass, also before a refusal. ``print`` prints
            it. Default None.

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
        part("linear_solver", self.linear_solver, Function)
        fraction("tol", self.tol)
        flag("check", self.check)
        positive("max_error", self.max_error)
        fraction("damping", self.damping)
        if self.report is not None:
            part("report", self.report, Function)

    def solve(
        self, solver: Solver, objective: Objective, start: Params, *, seed: int, progress: bool
    ) -> Outcome:
        check_smooth(objective)
        if draws_afresh(solver):
            raise ValueError(
                "adjoint: Implicit needs the minimiser of one function, but solver draws a new "
                "sample at each step, as TorchOpt() does and solver=None; give it fresh=False and a tol, or use "
                "solver=LBFGS() or NewtonCG()"
            )
        inputs = differentiable_inputs(objective, start)
        plain, origin = without_grad(objective, start)
        with outside_transforms():
            outcome = solver.solve(plain, origin, seed=seed, progress=progress)
            if outcome.status is Status.INTERRUPTED:
                return outcome  # a failure, and no minimiser to differentiate
            samples = outcome.saa_samples
            if samples is None:
                raise ValueError(f"adjoint: {type(solver).__name__} reports no frozen sample")
            ended = f"{type(solver).__name__} ended as {outcome.status.name}"
            self._certify(plain, origin, outcome.params, samples, ended)
        versions = _versions(samples)

        def pull_back(given: Params, cotangent: Params) -> Params:
            if _versions(samples) != versions:
                raise AdjointError(
                    "the data have been changed in place since the solve, so that the solution is "
                    "no minimiser on them. Give the solve a copy"
                )
            cotangents = self._cotangents(plain, outcome.params, samples, given, cotangent)
            return {name: cotangents.get(name, torch.zeros_like(v)) for name, v in given.items()}

        return replace(outcome, params=attach(outcome.params, inputs, pull_back))

    @torch.no_grad()
    def _certify(
        self,
        objective: Objective,
        start: Params,
        params: Params,
        samples: Sequence[Sample],
        ended: str,
    ) -> None:
        counted = Counted(objective)
        before, after = (moments(counted, w, samples).gradient_norm for w in (start, params))
        if not after <= self.tol * before:
            raise AdjointError(
                f"the solution's gradient norm is {after / (before or 1.0):.3g} of the start's, "
                f"above Implicit's tol={self.tol:g}: it is not stationary, so the implicit "
                f"derivative is of no meaning. {ended}. Minimise further, raise tol, or use Replay. In float32 "
                "rounding may end a solve before tol; give models in float64 then"
            )

    def _cotangents(
        self,
        objective: Objective,
        params: Params,
        samples: Sequence[Sample],
        inputs: Params,
        cotangent: Params,
    ) -> Params:
        """θ̄ = −(∂²L/∂w∂θ)ᵀ H⁻¹ w̄."""
        theta = {name: v for name, v in inputs.items() if not name.startswith("start.")}
        if not theta:
            return {}
        point = StationaryPoint.of(objective, params, samples, theta)
        target = to_vector({name: cotangent[name] for name in params})
        ends = _ends(point) if self.check else None
        answer = self._answer(point, target, ends, damping=0.0)
        if not self._confirmed(answer):
            ends = _ends(point) if ends is None else ends
            if ends.largest > 0 and ends.least <= flat(ends, params):
                damped = self._answer(point, target, ends, damping=self.damping * ends.largest)
                if self._confirmed(damped) or answer.status is not LinearStatus.SOLVED:
                    answer = damped
        if self.report is not None:
            self.report(answer.report)
        if answer.status is not LinearStatus.SOLVED:
            raise AdjointError(
                f"H x = w̄ is not solved after {answer.solution.iterations} iterations, relative residual "
                f"{answer.solution.residual:.3g}. {answer.status.name}: {answer.status.value}"
            )
        if not self._confirmed(answer):
            raise AdjointError(refusal(answer.report, self.max_error))
        return answer.cotangents

    def _answer(
        self, point: StationaryPoint, target: Tensor, ends: Spectrum | None, damping: float
    ) -> _Answer:
        """Solve the system. If that succeeds, compute the derivative and its error."""
        solution = self._solution(point, target, damping)
        cotangents = {n: torch.zeros_like(v) for n, v in point.theta.items()}
        errors: dict[str, float] = {}
        if solution.status is LinearStatus.SOLVED:
            cotangents = point.pull_back(solution.x)
            if self.check and ends is not None and ends.largest > 0:
                errors = recheck(point, cotangents, target, ends.largest)
        inverse = nan if ends is None else 1 / ends.least if ends.least > 0 else inf
        missed = float((target - point.product(solution.x)).norm() / (target.norm() or 1.0))
        report = ImplicitReport(
            gradient_norm=point.gradient_norm,
            inverse_norm=1 / (2 * damping) if damping else inverse,
            damping=damping,
            flat_share=missed if damping else 0.0,
            residual=solution.residual,
            errors=errors,
        )
        return _Answer(solution, cotangents, report)

    def _confirmed(self, answer: _Answer) -> bool:
        """Whether the system is solved, and no re-solve contradicts the derivative."""
        small = all(error <= self.max_error for error in answer.report.errors.values())
        return answer.status is LinearStatus.SOLVED and small

    def _solution(self, point: StationaryPoint, target: Tensor, damping: float) -> LinearSolution:
        """x of H x = w̄, or of (H² + μ² I) x = H w̄."""

        def squared(vector: Tensor) -> Tensor:
            return point.product(point.product(vector)) + damping**2 * vector

        if damping:
            return CG(self.damping**2, 2000)(squared, point.product(target))
        solution = self.linear_solver(point.product, target)
        if not isinstance(solution, LinearSolution):
            raise TypeError(
                f"linear_solver: returned {type(solution).__name__}, must return a LinearSolution"
            )
        return solution


class _Answer(NamedTuple):
    """The solution x of the linear system, the derivative θ̄ that follows, and a report on its error."""

    solution: LinearSolution
    cotangents: Params
    report: ImplicitReport

    @property
    def status(self) -> LinearStatus:
        return self.solution.status


def _ends(point: StationaryPoint) -> Spectrum:
    """The ends of the Hessian's spectrum. A saddle is refused."""
    ends = spectrum(point.hessian, point.params, 0)
    if ends.least < -flat(ends, point.params):
        raise AdjointError(saddle(ends.least, ends.largest))
    return ends


def _versions(samples: Sequence[Sample]) -> list[int]:
    """How often the tensors of the samples have been written to. They may be the caller's own."""
    parts = [part for sample in samples for part in (sample.inputs, sample.targets)]
    return [x._version for part in parts if part is not None for x in entries_of(part).values()]
