"""What a solver gives back: the minimiser, what became of it, and how far to trust it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, is_dataclass, replace
from enum import Enum
from math import isfinite
from typing import Any

from torch import nn

from phiopt._types import Params
from phiopt._values import known
from phiopt.growth import GrowthMap
from phiopt.objective import Lambdas, Sample


class Status(Enum):
    """What happened; the member's value says what to do about it."""

    SOLVED = "The gradient norm fell to the tolerance. Nothing to do."
    BUDGET_SPENT = (
        "All steps were taken, as asked; no tolerance was set, so stationarity was not required. "
        "Read the certificate to see how far from it the result is, or give the solver a tol."
    )
    SAMPLE_TOO_SMALL = (
        "The frozen sample was minimised, but less than half of that decrease holds on fresh "
        "draws. Enlarge the sample: more draws, a larger batch_size, more noise samples or probes."
    )
    STEP_LIMIT = (
        "All steps were taken before the gradient norm fell to the tolerance. Give more steps, "
        "a learning rate that decays, larger batches or a larger tol."
    )
    NOISE_FLOOR = (
        "All steps were taken, and the gradient left is within its own sampling error: more steps "
        "of this kind would wander. Enlarge batch_size, noise samples or probes, let the learning "
        "rate decay, or accept a larger tol."
    )
    STALLED = (
        "The objective could be lowered no further, though the gradient norm is above the "
        "tolerance: the limit of rounding, or a kink. Use float64, a smooth activation or a "
        "larger tol."
    )
    SADDLE = (
        "The gradient norm fell to the tolerance where the objective still curves downwards (its "
        "least Hessian eigenvalue is negative): no minimum. Use NewtonCG, which follows negative "
        "curvature, a smaller tol, or another start."
    )
    UNSETTLED = (
        "The gradient norm fell to the tolerance, but the spectral norm's eigenvector was not found to "
        "its own, so that this gradient is inexact (see certificate.curvature_error). Give Spectral "
        "more iterations; where the largest eigenvalues all but coincide, the norm has a kink there: "
        "take Frobenius, or throw=False."
    )
    DIVERGED = (
        "The objective ended above the start's, so the solve went back to the best iterate it had "
        "met, perhaps the start itself. Lower the learning rate, let it decay, or enlarge the "
        "batch."
    )
    NON_FINITE = (
        "The objective or a derivative was NaN or infinite and stayed so after rolling back to the "
        "best iterate with smaller steps; that iterate is returned. Where the start's objective is "
        "finite, lower the learning rate or clip the gradient; else mend the model, the loss or the "
        "data."
    )
    DATA_FAILED = (
        "Reading the data raised an exception midway; the best iterate until then is returned. "
        "See the solution's error, which is also the cause of the SolveError, and mend the data."
    )

    REPORT_FAILED = (
        "The solve ended well, but a number of its report is NaN or infinite, or computing it raised an "
        "exception, so that the result cannot be vouched for. The solution's lost names these numbers; "
        "look for inputs on which the model, the loss, the lift or the neighbourhood are not finite."
    )

    @property
    def failed(self) -> bool:
        """Whether ``initialize(..., throw=True)`` raises."""
        return self not in (Status.SOLVED, Status.BUDGET_SPENT, Status.SAMPLE_TOO_SMALL)


@dataclass(frozen=True)
class Stats:
    """What the solve cost, the certificate apart.

    Args:
        steps: Updates made.
        gradient: Gradients of the objective.
        forward: Forward passes of the student over a batch, one for each noise sample.
        hvp: Hessian-vector products, those inside gradients included. One on a part of a batch
            counts as that part.
        rollbacks: Returns to the best iterate after a non-finite value.
        seconds: Wall-clock time.
        unsettled: Evaluations of `Spectral` whose search ended at its most iterations, before its
            tolerance: value and gradient are inexact there.
    """

    steps: int
    gradient: int
    forward: int
    hvp: float
    rollbacks: int
    seconds: float
    unsettled: int = 0

    def __add__(self, other: Stats) -> Stats:
        """The work of both."""
        return Stats(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __sub__(self, earlier: Stats) -> Stats:
        """The work since ``earlier``."""
        return Stats(**{name: value - getattr(earlier, name) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Spectrum:
    """The two ends of a Hessian's spectrum, by Lanczos' method.

    Args:
        least: An upper bound of the least eigenvalue, vᵀHv at a unit vector v: where it is
            negative, so is the eigenvalue.
        largest: A lower bound of the largest.
        residual: ‖H v − least v‖: an eigenvalue lies within it of ``least``.
        products: Hessian-vector products spent.
    """

    least: float
    largest: float
    residual: float
    products: int


@dataclass(frozen=True)
class Certificate:
    """How good a minimiser the solution is, measured on fresh draws that no step and no choice of
    iterate has seen.

    Args:
        gradient_norm: ‖∇L(w1)‖ / ‖∇L(w0)‖, both of the mean over the draws; 0 where both are 0.
        gradient_norm_error: Standard error of ∇L(w1) over ‖∇L(w0)‖: below it, ``gradient_norm`` is
            noise.
        start_gradient_norm: ‖∇L(w0)‖.
        curvature_along_gradient: gᵀ∇²L g / ‖g‖² at w1, g the mean gradient, ∇²L by a central
            difference on the first draw; None if g is 0 or a value next to w1 is not finite.
            Negative: w1 is no minimum.
        objective: L(w1), mean over the draws.
        start_objective: L(w0), mean over the same draws.
        decrease_error: Standard error of their difference; 0 for a single draw.
        terms: The raw terms with weight at w1, mean over the draws.
        standard_errors: Of those terms, over the draws; 0 for what is not sampled.
        draws: Number of draws.
        dead_units: By weight, how many of its units have gradients of exactly zero, coming in and
            going out, so that no gradient method can ever move them; see `dead_units`.
        spectrum: The ends of the spectrum of ∇²L(w1), on the frozen sample if there was one; None
            unless the gradient norm had fallen to the tolerance. NaN where a product was not finite.
        restarts: L of the solutions from other starts, on the same draws; in their order.
        curvature_error: What `Spectral`'s search left of the eigenvector at w1, the sine of an angle in
            [0, 1], the largest over the draws: the relative error of L_4's gradient is in proportion to
            it. None where the curvature has no weight or no search.
        unsettled: In how many of the draws it was not found to its tolerance.
    """

    gradient_norm: float
    gradient_norm_error: float
    start_gradient_norm: float
    curvature_along_gradient: float | None
    objective: float
    start_objective: float
    decrease_error: float
    terms: dict[str, float]
    standard_errors: dict[str, float]
    draws: int
    dead_units: dict[str, int]
    spectrum: Spectrum | None = None
    restarts: tuple[float, ...] = ()
    curvature_error: float | None = None
    unsettled: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a `Solver` returns: the best iterate and how it was found.

    ``objective`` and ``start_objective`` are values on the draws that the best iterate was chosen
    by, so the first is never above the second. ``terms`` and ``start_terms`` are raw values on the
    same draws. ``frozen`` holds the draws that were kept for all steps, None if each step had its
    own. ``error`` is what reading the data raised midway, or computing the report.
    """

    params: Params
    status: Status
    objective: float
    start_objective: float
    terms: dict[str, float]
    start_terms: dict[str, float]
    history: list[dict[str, float]]
    stats: Stats
    frozen: list[Sample] | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class Solution:
    """w1 = φ(u) and everything worth knowing about it.

    Args:
        student: A new module that holds w1; in the training mode of the one given.
        params: w1 as a dictionary of the student's parameters (copies, not the module's own
            tensors).
        status: What happened and what to do about it.
        terms: Raw values of the four terms at w1 (those that the arguments allow), unweighted,
            whatever their weights. Where λ4 is 0 and the student or the loss lacks a derivative
            that can be trusted, the curvature is not among them.
        start_terms: The same at w0.
        objective: The weighted sum at w1.
        start_objective: The weighted sum at w0; never below ``objective``.
        scale: "relative" or "paper".
        divisors: What each term was divided by before weighting; 1 where not named.
        lambdas: The weights.
        certificate: How good a minimiser w1 is, on fresh draws.
        history: One record a step: the objective and terms with weight on the step's sample, the
            gradient norm, and where the iterate was judged, its value on the held-out draws.
        stats: Evaluations and seconds.
        error: What reading the data raised, where the status is ``DATA_FAILED``; what computing a
            number of the report raised, where it is ``REPORT_FAILED``.
        map: Where the teacher sits in the student; None in a solution read from a file.

    ``print(solution)`` shows a report.
    """

    student: nn.Module
    params: Params
    status: Status
    terms: dict[str, float]
    start_terms: dict[str, float]
    objective: float
    start_objective: float
    scale: str
    divisors: dict[str, float]
    lambdas: Lambdas
    certificate: Certificate
    history: list[dict[str, float]]
    stats: Stats
    error: Exception | None = None
    map: GrowthMap | None = field(default=None, repr=False, compare=False)

    @property
    def lost(self) -> tuple[str, ...]:
        """Names of the reported numbers that are NaN or infinite, such as ``terms.noise`` and
        ``certificate.spectrum.least``."""
        return lost(self, self.certificate)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write w1, the student's buffers and the report to a safetensors file with a JSON header,
        in one step; no pickle. λ that are tensors are kept as numbers, an adjoint's graph is not.
        """
        from phiopt.solve.storage import save

        save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str], student: nn.Module) -> Solution:
        """Read what `save` wrote.

        Args:
            path: The file.
            student: A module of the architecture saved; the solution gets a copy, it is not modified.

        Raises:
            ValueError: The file is no solution or belongs to another module; the message says what
                differs.
        """
        from phiopt.solve.storage import load

        return load(path, student)

    def __str__(self) -> str:
        c, s = self.certificate, self.stats
        lines = [
            _said(self),
            f"objective {self.start_objective:.4g} -> {self.objective:.4g} ({self.scale} scale); "
            f"on fresh draws {c.start_objective:.4g} -> {c.objective:.4g}",
            "term           weight   divided by      at start           end   fresh ± s.e.",
        ]
        for name, weight in self.lambdas.items():
            if not (name in self.terms and name in self.start_terms):
                if name == "curvature" and "task" in self.terms:
                    lines.append(
                        f"{name:<12}{0.0:>9.4g}  not reported, has no derivatives to trust"
                    )
                continue
            row = f"{name:<12}{known(weight):>9.4g}{self.divisors.get(name, 1.0):>13.4g}"
            row += f"{self.start_terms[name]:>14.4g}{self.terms[name]:>14.4g}"
            if name in c.terms:
                row += f"   {c.terms[name]:.4g} ± {c.standard_errors[name]:.2g}"
            lines.append(row)
        lines += [
            *_stationarity(c),
            f"{s.steps} steps, {s.gradient} gradients, {s.forward} forward passes, {s.hvp:g} HVPs, "
            f"{s.rollbacks} roll-backs, {s.seconds:.1f} s",
        ]
        if s.unsettled:
            lines.append(
                f"{s.unsettled} times the spectral norm's eigenvector was not found to its tolerance; "
                "give Spectral more iterations"
            )
        return "\n".join(lines)


def _said(solution: Solution) -> str:
    """What happened and what to do about it, in a line, and in another one what was raised."""
    lines = [f"{solution.status.name}: {solution.status.value}"]
    if solution.lost:
        lines.append(f"not finite: {', '.join(solution.lost)}")
    if solution.error is not None:
        unreported = solution.status is Status.REPORT_FAILED and "curvature" not in solution.terms
        place = "computing the curvature for the report raised " if unreported else ""
        lines.append(f"{place}{type(solution.error).__name__}: {solution.error}")
    return "\n".join(lines)


def lost(found: Outcome | Solution, certificate: Certificate | None = None) -> tuple[str, ...]:
    """Names of the numbers that are NaN or infinite, of a result and of its certificate."""
    names = ("terms", "start_terms", "objective", "start_objective", "divisors")
    reported = {name: getattr(found, name) for name in names if hasattr(found, name)}
    numbers = {**_numbers(reported), **_numbers({"certificate": certificate})}
    unfit = [name for name, value in numbers.items() if not isfinite(value)]
    return tuple(unfit + [name for name, p in found.params.items() if not p.isfinite().all()])


def vouched(found: Outcome, certificate: Certificate | None = None) -> Outcome:
    """The outcome, whose status is no success where a number of the report is lost."""
    failed = found.error is not None or bool(lost(found, certificate))
    if failed and not found.status.failed:
        return replace(found, status=Status.REPORT_FAILED)
    return found


def _numbers(value: Any, name: str = "") -> dict[str, float]:
    """The numbers of a report by their paths."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, tuple):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        parts = [
            _numbers(part, f"{name}.{key}" if name else str(key)) for key, part in value.items()
        ]
        return {key: number for part in parts for key, number in part.items()}
    return {name: float(value)} if isinstance(value, int | float) else {}


def _stationarity(c: Certificate) -> list[str]:
    """The certificate's lines of the report; what was not asked for has none."""
    curved = c.curvature_along_gradient
    lines = [
        f"gradient norm {c.gradient_norm:.3g} ± {c.gradient_norm_error:.2g} of the start's, "
        f"curvature along it {'-' if curved is None else format(curved, '.3g')}"
    ]
    if c.spectrum is not None:
        lines.append(
            f"Hessian eigenvalues from {c.spectrum.least:.3g} (± {c.spectrum.residual:.1g}) "
            f"to {c.spectrum.largest:.3g}"
        )
    if c.curvature_error is not None:
        lines.append(
            f"spectral norm's eigenvector known to {c.curvature_error:.1g} (1: not at all)"
        )
    if c.dead_units:
        lines.append(f"dead units: {', '.join(f'{n} in {k}' for k, n in c.dead_units.items())}")
    if c.restarts:
        lines.append(f"restarts reached {', '.join(format(v, '.4g') for v in c.restarts)}")
    return lines


class SolveError(RuntimeError):
    """The inner problem was not solved; ``solution`` holds what there is, and ``throw=False``
    returns it instead.
    """

    def __init__(self, solution: Solution) -> None:
        super().__init__(_said(solution))
        self.solution = solution

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.solution,)
