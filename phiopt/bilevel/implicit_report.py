"""A report on the error of an implicit derivative, and the messages of a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan


@dataclass(frozen=True)
class ImplicitReport:
    """What is known of the error of one implicit derivative. ``print(report)`` shows it in words.

    Args:
        gradient_norm: ‖∇_w L‖ at the solution, on its frozen sample; 0 at a minimiser.
        inverse_norm: ‖H⁻¹‖, from the Hessian's least eigenvalue by Lanczos' method; 1/(2μ) with damping; infinite
            without damping where the least eigenvalue is within rounding of 0; NaN if not computed.
        damping: μ, where flat directions were damped; else 0.
        flat_share: The share of w̄ in the flat directions, ‖w̄ − H x‖ / ‖w̄‖. There the minimiser is not
            determined, and its derivative is taken to be 0.
        residual: Relative residual of the linear system.
        errors: Relative error of the derivative along a random direction in each group of inputs, by a re-solve.
            Empty if not checked; NaN where the re-solve reached no minimiser.
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


def saddle(least: float, largest: float) -> str:
    """The message where the solution is no minimum: two ends of the Hessian's spectrum."""
    return (
        f"the solution is a saddle: the Hessian's least eigenvalue is {least:.3g}, its largest "
        f"{largest:.3g}, so the matrix is INDEFINITE. Minimise further, from another start or with "
        "NewtonCG, which follows negative curvature"
    )


def refusal(report: ImplicitReport, max_error: float) -> str:
    """The message where a re-solve does not confirm the derivative."""
    worst = [
        f"{group} by {error:.3g}" for group, error in report.errors.items() if error > max_error
    ]
    lost = [group for group, error in report.errors.items() if error != error]
    reasons = (
        [f"differs from a re-solve nearby, relatively, in {', '.join(worst)}"] if worst else []
    )
    if lost:
        reasons.append(f"cannot be checked in {', '.join(lost)}: no minimiser was found nearby")
    return (
        f"the implicit derivative {' and '.join(reasons)}, above max_error={max_error:g}. The solution is "
        f"{report.distance:.3g} from the minimiser at most, by a gradient norm of "
        f"{report.gradient_norm:.3g} and an inverse Hessian of norm {report.inverse_norm:.3g}. "
        "Minimise further (a smaller tol of the solver), solve the system to a smaller tol, work in "
        "float64, raise max_error, or use Replay"
    )
