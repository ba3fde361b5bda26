"""The trials and the result of a search for λ."""

from __future__ import annotations

from dataclasses import dataclass

from phiopt._printed import Printed
from phiopt.bilevel.search import DERIVATIVE, SearchStatus
from phiopt.objective import Lambdas
from phiopt.solve import Solution, Status


@dataclass(frozen=True)
class Trial:
    """One evaluation of the outer loss.

    Args:
        lambdas: The four weights.
        delta: δ, if it is learned.
        theta: θ, if it is learned.
        outer: E of the inner solve's result, also where the ``status`` is a failure. Infinite where E is not
            finite, the data could not be read, or there is no derivative.
        status: How the inner solve ended; None if it raised an `AdjointError`.
        gradients: Gradients of φ's objective that the inner solve took.
        differentiated: Whether the derivative of E was taken: see `Learned.gradients`.
        again: Whether the trial repeats the point of an earlier one from a start nearby, after a saddle or a
            solve without a derivative.
        error: Why a derivative was refused, where one was asked for.
    """

    lambdas: tuple[float, ...]
    delta: float | None
    theta: float | None
    outer: float
    status: Status | None
    gradients: int
    differentiated: bool = False
    again: bool = False
    error: str | None = None

    def at(self, other: Trial) -> bool:
        """Whether both trials are of one point."""
        return (self.lambdas, self.delta, self.theta) == (other.lambdas, other.delta, other.theta)

    @property
    def mark(self) -> str:
        """A few words on what was unusual; empty if nothing was."""
        failed = self.status is not None and self.status.failed
        words = [str(self.status and self.status.name)] if failed else []
        words += ["no derivative"] * (self.error is not None) + ["again"] * self.again
        return ", ".join(words)


@dataclass(frozen=True, repr=False)
class Learned(Printed):
    """The result of `phiopt.learn`.

    Args:
        solution: φ's solution at the best point.
        lambdas: λ there, with 0 for weights below 1e-9, to which a search may drive a term that does not help.
        delta: δ there, if it was learned.
        theta: θ there, if it was learned.
        outer: E there.
        start_outer: E at the start of the search; never below ``outer``.
        path: Every evaluation, in order.
        status: How the search ended. How the solve at the best point ended is in ``solution.status``.
        error: The exception that ended the search, where the status is ``NO_DERIVATIVE`` or
            ``TRIAL_FAILED``.

    ``print(learned)`` shows the path.
    """

    solution: Solution
    lambdas: Lambdas
    delta: float | None
    theta: float | None
    outer: float
    start_outer: float
    path: list[Trial]
    status: SearchStatus
    error: Exception | None = None

    @property
    def gradients(self) -> int:
        """The cost of the search in gradients of φ's objective: those of every solve, and for each derivative
        of E three times as many (`DERIVATIVE`).
        """
        return sum(t.gradients * (1 + DERIVATIVE * t.differentiated) for t in self.path)

    def __str__(self) -> str:
        lines = [f"{self.status.name}: {self.status.value}"]
        if self.error is not None:
            lines.append(f"error: {self.error}")
        if self.solution.status.failed:
            lines.append(failure(self.solution.status))
        lines += [
            f"outer loss {self.start_outer:.4g} -> {self.outer:.4g} in {len(self.path)} solves",
            "    task  proximity  noise  curvature     delta     theta     outer",
        ]
        for t in self.path:
            row = "{:8.3f}{:11.3f}{:7.3f}{:11.3f}".format(*t.lambdas)
            for value in (t.delta, t.theta):
                row += f"{'-' if value is None else format(value, '.4g'):>10}"
            best = " <" if t.outer == self.outer else ""
            lines.append(f"{row}{t.outer:>10.4g}{best}{t.mark and '  ' + t.mark}")
        return "\n".join(lines)


def failure(status: Status) -> str:
    """The message on a chosen solution whose own solve failed."""
    return f"the chosen solution's own solve ended as {status.name}: {status.value}"
