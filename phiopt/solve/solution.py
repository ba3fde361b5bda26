"""The solution of a problem: the minimiser and a report, which can be printed, saved and loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NoReturn

from torch import nn

from phiopt import _files
from phiopt._checks import instance, known
from phiopt._json import Field
from phiopt._modules import state_of, with_tensors
from phiopt._paths import check_path, new_file
from phiopt._printed import Printed
from phiopt._records import plain, revived_fields
from phiopt._types import Params
from phiopt.growth import GrowthMap
from phiopt.objective import Lambdas
from phiopt.solve.certificate import Certificate
from phiopt.solve.outcome import Stats, Status, lost
from phiopt.solve.plot import plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KIND = "solution"
_APART = ("student", "params", "map")
"""Fields that a file keeps as tensors, or that have a file of their own (`GrowthMap.save`); everything else
goes into the header."""


@dataclass(frozen=True, repr=False)
class Solution(Printed):
    """w1 = φ(u) and everything worth knowing about it.

    Args:
        student: A new module that holds w1, in the training mode of the given student.
        params: w1 as a dictionary of the student's parameters (copies, not the module's own
            tensors).
        status: How the solve ended, and what to do about it.
        terms: Raw values of the terms at w1, unweighted, on the draws by which iterates are compared. With
            ``certificate="full"`` terms without weight are among them, on the certificate's draws. Terms that
            cannot be computed are not: without data only those over the parameters can be, and see
            ``left_out``.
        start_terms: The same at w0.
        objective: The weighted sum at w1.
        start_objective: The weighted sum at w0; never below ``objective``.
        scale: "relative" or "paper".
        divisors: What each term was divided by before weighting; 1 where not named.
        lambdas: The weights.
        certificate: How good a minimiser w1 is, on fresh draws; None if no certificate was asked for.
        history: One record for each step: the objective and the terms with weight on the step's sample, the
            gradient norm, and where the iterate was validated, its value on the held-out draws.
        stats: Evaluations and seconds.
        error: The exception from reading the data, where the status is ``DATA_FAILED``, or from computing the
            report, where it is ``REPORT_FAILED``; the interrupt, where it is ``INTERRUPTED``.
        map: Where the teacher sits in the student; None in a solution read from a file.
        extra: The weights of terms beside the paper's four, by name.
        left_out: Terms that could not be computed, by name, with the reason.

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
    certificate: Certificate | None
    history: list[dict[str, float]]
    stats: Stats
    error: BaseException | None = None
    map: GrowthMap | None = field(default=None, compare=False)
    extra: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def lost(self) -> tuple[str, ...]:
        """Names of the reported numbers that are NaN or infinite, such as ``terms.noise`` and
        ``certificate.spectrum.least``."""
        names = ("terms", "start_terms", "objective", "start_objective", "divisors", "certificate")
        return lost(self.params, {name: getattr(self, name) for name in names})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write w1, the student's buffers and the report to a safetensors file with a JSON header, without pickle.
        The file is written whole or not at all. λ that are tensors are kept as numbers. An adjoint's graph is lost.
        """
        new_file("path", path)
        report = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _APART}
        _files.write(
            path,
            _KIND,
            state_of(self.student) | self.params,
            {
                "report": {name: plain(value) for name, value in report.items()},
                "params": list(self.params),
            },
        )

    @staticmethod
    def load(path: str | os.PathLike[str], student: nn.Module) -> Solution:
        """Read what `save` wrote.

        Args:
            path: The file.
            student: A module of the saved architecture. The solution gets a copy.

        Raises:
            ValueError: The file is no solution, or belongs to another module. The message says what differs.
        """
        check_path("path", path)
        instance("student", student, nn.Module, "an nn.Module")
        tensors, about = _files.read(path, _KIND)
        _check_student(path, student, tensors)
        parts = about.members(["report"])
        report = revived_fields(Solution, parts["report"], apart=_APART)
        loaded = with_tensors(student, tensors)
        params = {name: p.detach().clone() for name, p in loaded.named_parameters()}
        if "params" in parts:  # an older file does not name them: all parameters are meant
            params = {name: params[name] for name in _names(parts["params"], params)}
        return Solution(student=loaded, params=params, **report)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A figure: the objective, its terms and the judges' values over the steps; each term at the start, at the end
        and on the certificate's fresh draws; and the work. Terms are drawn as their parts of the objective, weighted
        and divided.

        Args:
            path: The file to save it in, whole or not at all. The suffix gives the format; without one it is PNG.

        Raises:
            ValueError, OSError: No picture can be written at ``path``.
            ImportError: matplotlib is not installed.
        """
        if path is not None:
            new_file("path", path)
        return plot(self, path)

    def __str__(self) -> str:
        c, s = self.certificate, self.stats
        objective = f"objective {self.start_objective:.4g} -> {self.objective:.4g}"
        fresh = c and f"; on fresh draws {c.start_objective:.4g} -> {c.objective:.4g}"
        lines = [
            _status_text(self),
            f"{objective} ({self.scale} scale){fresh or ''}",
            "term           weight   divided by      at start           end   fresh ± s.e.",
        ]
        for name, weight in [*self.lambdas.items(), *self.extra.items()]:
            if not (name in self.terms and name in self.start_terms):
                if name in self.left_out:
                    lines.append(f"{name:<12}{0.0:>9.4g}  not reported, {self.left_out[name]}")
                continue
            row = f"{name:<12}{known(weight):>9.4g}{self.divisors.get(name, 1.0):>13.4g}"
            row += f"{self.start_terms[name]:>14.4g}{self.terms[name]:>14.4g}"
            if c and name in c.terms:
                row += f"   {c.terms[name]:.4g} ± {c.standard_errors[name]:.2g}"
            lines.append(row)
        lines += [
            *(_stationarity(c) if c else ()),
            f"{s.steps} steps, {s.gradient} gradients, {s.forward:g} forward passes, {s.hvp:g} HVPs, "
            f"{s.rollbacks} roll-backs, {s.seconds:.1f} s",
        ]
        if s.unsettled:
            lines.append(
                f"{s.unsettled} times the spectral norm's eigenvector was not found to its tolerance; "
                "give Spectral more iterations"
            )
        return "\n".join(lines)


class SolveError(RuntimeError):
    """The inner problem was not solved. ``solution`` is the best that was reached. With ``throw=False`` it is
    returned in place of this error.
    """

    def __init__(self, solution: Solution) -> None:
        super().__init__(_status_text(solution))
        self.solution = solution

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.solution,)


def raise_failure(solution: Solution) -> NoReturn:
    """A failed solve as an exception that holds the solution: a `SolveError`, or the interrupt itself."""
    if isinstance(solution.error, KeyboardInterrupt):
        solution.error.solution = solution  # type: ignore[attr-defined]
        raise solution.error
    raise SolveError(solution) from solution.error


def _names(field: Field, params: Params) -> list[str]:
    """Names of the parameters that were solved for."""
    return [item.text(params) for item in field.items()]


def _check_student(path: str | os.PathLike[str], student: nn.Module, tensors: Params) -> None:
    """Refuse a module that does not have a file's ``tensors``, each in its shape and dtype."""
    own = state_of(student)
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    expected = {name: tuple(value.shape) for name, value in tensors.items()}
    _files.check(
        path,
        _files.differences("student", expected, shapes)
        + [f"student has {name} too" for name in own if name not in expected]
        + [
            f"student's {name} is {value.dtype}, not {tensors[name].dtype}"
            for name, value in own.items()
            if name in tensors and value.dtype != tensors[name].dtype
        ],
    )


def _status_text(solution: Solution) -> str:
    """A line with the status and its advice, and further lines for numbers that are not finite and for an
    exception.
    """
    lines = [f"{solution.status.name}: {solution.status.value}"]
    if solution.lost:
        lines.append(f"not finite: {', '.join(solution.lost)}")
    if solution.error is not None:
        place = ""
        if solution.status is Status.REPORT_FAILED:
            weights = {**dict(solution.lambdas.items()), **solution.extra}
            lost = [n for n in weights if n not in solution.terms and n not in solution.left_out]
            place = f"computing the {' and '.join(lost)} for the report raised " if lost else ""
        lines.append(f"{place}{type(solution.error).__name__}: {solution.error}")
    return "\n".join(lines)


def _stationarity(c: Certificate) -> list[str]:
    """The report's lines on the certificate. A part that was not asked for has no line."""
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
