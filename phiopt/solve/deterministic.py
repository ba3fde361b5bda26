"""SciPy's solvers on a frozen sample, for small gradient norms in problems of small and middle size."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import scipy

from phiopt._checks import count, fraction, one_of
from phiopt._types import Params
from phiopt.objective import Objective
from phiopt.solve.adaptive_saa import FIRST, solve_adaptive_saa
from phiopt.solve.outcome import Outcome
from phiopt.solve.saa import SaaSolve
from phiopt.solve.solver import Evaluations

METHODS = {
    "trust-krylov": {"gtol": 0.0, "inexact": True},
    "newton-cg": {"xtol": 0.0},
}
"""SciPy's second-order methods, and the options that switch off their stopping rules."""


class _SaaSolver(ABC):
    """A solver that minimises the mean over a frozen sample by a method of SciPy."""

    steps: int
    batch_size: int | None
    draws: int | None
    tol: float

    def solve(
        self, objective: Objective, start: Params, *, seed: int = 0, progress: bool = False
    ) -> Outcome:
        """See `Solver`."""
        return solve_adaptive_saa(
            self._minimise,
            objective,
            start,
            draws=self.draws,
            batch_size=self.batch_size,
            tol=self.tol,
            steps=self.steps,
            seed=seed,
            progress=progress,
        )

    def work(self, objective: Objective) -> Evaluations:
        """See `TellsWork`. A step has one evaluation as a rule. A sample that grows is not foreseen."""
        draws = (self.draws or FIRST) if objective.data is not None else 1
        return Evaluations((1 + self.steps) * draws, 0)

    @abstractmethod
    def _minimise(self, run: SaaSolve, steps: int) -> None:
        """Call SciPy once, for at most ``steps`` steps."""

    def _check(self) -> None:
        count("steps", self.steps)
        for name, value in (("draws", self.draws), ("batch_size", self.batch_size)):
            if value is not None:
                count(name, value)
        fraction("tol", self.tol)


@dataclass(frozen=True)
class LBFGS(_SaaSolver):
    """Minimise φ's objective on a frozen sample with SciPy's L-BFGS-B (Byrd, Lu, Nocedal and Zhu 1995).

        min_w 1/draws Σ_i L(w; draw i)

    The draws of examples, noise and probes are made once and kept. The mean over them is a deterministic function,
    which can be minimised to any gradient norm. Fresh draws show whether its minimiser is one of L itself.
    `Solution` reports ``objective`` (on the kept draws) beside ``certificate.objective`` (on fresh draws). The status
    is ``SAMPLE_TOO_SMALL`` if fresh draws show less than half of the decrease. The curvature needs the most draws: a
    single probe is easily over-fitted.

    Args:
        steps: Iterations at most; default 500.
        batch_size: Examples of D1 in a draw; default 1024. None, or a number not below that of D1: all of D1.
        draws: Draws in the frozen sample. None (default): 8 at first. They are doubled while held-out draws show
            less than half of the decrease, to 64 at most, and the solve goes on from the minimiser so far.
            Draws are evaluated one after the other, so the memory for activations is that of one draw. Without
            data there is one draw.
        tol: Solved once the gradient norm is at most ``tol`` times the start's; default 1e-4.
        memory: Pairs of steps and gradient changes that model the curvature; default 10.

    After a non-finite value or derivative the solve goes back to the best iterate, and the unit of length becomes a
    tenth of what it was; three times at most.

    Raises:
        ValueError: ``steps``, ``batch_size``, ``draws`` or ``memory`` < 1, ``tol`` outside (0, 1).
        TypeError: One of them is not a number of its kind.

    Examples:
        >>> LBFGS(tol=1e-6, draws=16).memory
        10
    """

    steps: int = 500
    batch_size: int | None = 1024
    draws: int | None = None
    tol: float = 1e-4
    memory: int = 10

    def __post_init__(self) -> None:
        self._check()
        count("memory", self.memory)

    def _minimise(self, run: SaaSolve, steps: int) -> None:
        # Each step's line search has 20 evaluations at most; no other limit.
        options = {"maxcor": self.memory, "maxfun": 20 * steps, "ftol": 0.0, "gtol": 0.0}
        scipy.optimize.minimize(
            run.value_and_grad,
            np.zeros_like(run.centre.w),
            jac=True,
            method="L-BFGS-B",
            callback=run.stepped,
            options={"maxiter": steps, **options},
        )


@dataclass(frozen=True)
class NewtonCG(_SaaSolver):
    """Minimise φ's objective on a frozen sample by Newton's method with conjugate gradients, from products with the
    Hessian of the whole objective. The frozen sample is that of `LBFGS`.

    Where the curvature term has weight the products contain fourth derivatives of the loss. They are exact for
    ``Frobenius``. For ``Spectral`` they leave out the motion of the eigenvector: the steps are less good, but the
    stationary points are the same.

    Args:
        method: "trust-krylov" (default): a trust region whose steps are minimised over a Krylov space (Gould,
            Lucidi, Roma and Toint 1999). It follows negative curvature, and so leaves saddles. "newton-cg": a
            line search along the truncated Newton step (Nocedal and Wright, Numerical Optimization, algorithm
            7.1).
        steps: Newton steps at most; default 100.
        batch_size: See `LBFGS`; default 1024.
        draws: See `LBFGS`; default None. With ``draws=1`` one graph serves all products at an iterate.
        tol: Solved once the gradient norm is at most ``tol`` times the start's; default 1e-6.

    Raises:
        ValueError: ``method`` is another, ``steps``, ``batch_size`` or ``draws`` < 1, ``tol``
            outside (0, 1).
        TypeError: One of them is not a number of its kind.

    Examples:
        >>> NewtonCG(method="newton-cg", batch_size=None).tol
        1e-06
    """

    needs_hessian: ClassVar[bool] = True

    method: Literal["trust-krylov", "newton-cg"] = "trust-krylov"
    steps: int = 100
    batch_size: int | None = 1024
    draws: int | None = None
    tol: float = 1e-6

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        self._check()

    def _minimise(self, run: SaaSolve, steps: int) -> None:
        with warnings.catch_warnings():
            # A line search that fails ends as Status.STALLED.
            warnings.filterwarnings("ignore", category=RuntimeWarning, module="scipy")
            scipy.optimize.minimize(
                run.value_and_grad,
                np.zeros_like(run.centre.w),
                jac=True,
                hessp=run.hvp,
                method=self.method,
                callback=run.stepped,
                options={"maxiter": steps, **METHODS[self.method]},
            )
