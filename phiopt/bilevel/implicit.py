"""Implicit: the derivative of a minimiser from the equation that it satisfies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import vjp

from phiopt._transforms import outside_transforms
from phiopt._types import Params
from phiopt.bilevel.adjoint import (
    AdjointError,
    attach,
    check_smooth,
    differentiable_inputs,
    with_inputs,
    without_grad,
)
from phiopt.bilevel.linear import CG, LinearSolution, LinearSolver, LinearStatus
from phiopt.objective import Objective, Sample
from phiopt.objective._numbers import fraction, part
from phiopt.solve import Outcome, Solver
from phiopt.solve.certificate import moments
from phiopt.solve.solver import Counted
from phiopt.solve.spectrum import MeanHessian
from phiopt.solve.vector import to_params, to_vector


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
    The error of the derivative is of the order of the gradient left and of the system's residual.

    Args:
        linear_solver: Of H x = w̄; default ``CG()``, which refuses a point that is no minimum.
        tol: The solution's gradient norm on its frozen sample, over the start's, may be at most
            this; default 1e-4.

    Raises:
        ValueError: The solver draws afresh at each step, the curvature is `Spectral`, or ``tol`` is
            not in (0, 1).
        TypeError: ``linear_solver`` cannot be called, or is a class.
        AdjointError: From the solve, if the solution is not stationary to ``tol``, or in forward
            mode; from the backward pass, if the linear system is not solved (the message holds its
            status) or the data have been changed in place; from a second derivative.

    Examples:
        >>> Implicit(CG(tol=1e-8), tol=1e-6).tol
        1e-06
    """

    linear_solver: LinearSolver = field(default_factory=CG)
    tol: float = 1e-4

    def __post_init__(self) -> None:
        part("linear_solver", self.linear_solver, "__call__")
        fraction("tol", self.tol)

    def solve(
        self, solver: Solver, objective: Objective, start: Params, *, seed: int, progress: bool
    ) -> Outcome:
        check_smooth(objective)
        if getattr(solver, "fresh", False):
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
        hessian = MeanHessian(Counted(with_inputs(objective, theta)), params, frozen)

        def product(vector: Tensor) -> Tensor:
            return to_vector(hessian(to_params(vector, params)))

        solved = self.linear_solver(product, to_vector({n: cotangent[n] for n in params}))
        if not isinstance(solved, LinearSolution):
            raise TypeError(
                f"linear_solver: returned {type(solved).__name__}, must return a LinearSolution"
            )
        if solved.status is not LinearStatus.SOLVED:
            raise AdjointError(
                f"H x = w̄ is not solved after {solved.iterations} iterations, relative residual "
                f"{solved.residual:.3g}. {solved.status.name}: {solved.status.value}"
            )
        total = {name: torch.zeros_like(value) for name, value in theta.items()}
        for piece, share in (found for sample in frozen for found in objective.pieces(sample)):

            def gradient(t: Params, piece: Sample = piece) -> Params:
                return with_inputs(objective, t).value_and_grad(params, piece)[2]

            pull = cast(Any, vjp(gradient, theta))[1]
            (partial,) = pull(to_params(solved.x, params))
            share /= len(frozen)
            total = {name: sum_ - share * partial[name] for name, sum_ in total.items()}
            del pull, partial  # or its graph would be alive beside the next one's
        return total


def _versions(samples: list[Sample]) -> list[int]:
    """How often the examples of each have been written to; they may be the caller's own tensors."""
    held = [tensor for sample in samples for tensor in (sample.inputs, sample.targets)]
    return [tensor._version for tensor in held if tensor is not None]
