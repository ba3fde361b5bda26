"""SciPy's solvers on a frozen sample, for tight stationarity in problems of small and middle size."""

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
from phiopt.solve.adaptive_saa import solve_adaptive_saa
from phiopt.solve.outcome import Outcome
from phiopt.solve.saa import SaaSolve

METHODS = {
    "trust-krylov": {"gtol": 0.0, "inexact": True},
    "newton-cg": {"xtol": 0.0},
}
"""SciPy's second-order methods and how their own stopping rules are switched off."""


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

    @abstractmethod
    def _minimise(self, run: SaaSolve, steps: int) -> None:
        """Call SciPy once, for so many steps at most."""

    def _check(self) -> None:
        count("steps", self.steps)
        for name, value in (("draws", self.draws), ("batch_size", self.batch_size)):
            if value is not None:
                count(name, value)
        fraction("tol", self.tol)


@dataclass(frozen=True)
class LBFGS(_SaaSolver):
    """Minimise φ's objective on a frozen sample with SciPy's L-BFGS-B (Byrd, Lu, Nocedal and Zhu
    1995).

        min_w 1/draws Σ_i L(w; draw i)

    The draws of examples, noise and probes are made once and kept. Their mean is a deterministic function,
    which can be minimised to any gradient norm. Fresh draws show whether its minimiser is one of L itself:
    `Solution` reports ``objective`` (fitted) beside ``certificate.objective`` (fresh), and
    ``Status.SAMPLE_TOO_SMALL`` if the decrease does not hold on fresh draws. The curvature needs the most
    draws: a single probe is easily over-fitted.

    Args:
        steps: Iterations at most; default 500.
        batch_size: Examples of D1 to a draw; None, or no fewer than there are: all of D1. Default
            1024.
        draws: Draws in the frozen sample. None (default): 8 to begin with, doubled while the
            decrease does not hold on held-out draws, to 64 at most; each time the solve goes on
            from the minimiser so far. Draws are evaluated one after the other, so the memory for
            activations is that of one. Without data there is one.
        tol: Solved once the gradient norm is at most ``tol`` times the start's; default 1e-4.
        memory: Pairs of steps and gradient changes that model the curvature; default 10.

    After a non-finite value or derivative the solve goes back to the best iterate, with a tenth of the unit
    of length, three times at most.

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
    """Minimise φ's objective on a frozen sample by Newton's method with conjugate gradients, from
    products with the Hessian of the whole objective; the frozen sample is that of `LBFGS`.

    Where the curvature term has weight the products hold fourth derivatives of the loss, exact for
    ``Frobenius``; those of ``Spectral`` leave out the motion of its eigenvector, so that steps are
    less good but the stationary points the same.

    Args:
        method: "trust-krylov" (default), a trust region whose steps are minimised over a Krylov
            space (Gould, Lucidi, Roma and Toint 1999): it follows negative curvature, and so leaves
            saddles. "newton-cg", a line search along the truncated Newton step (Nocedal and Wright,
            Numerical Optimization, algorithm 7.1).
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
