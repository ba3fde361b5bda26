"""A solution as a figure: the objective over the steps, the terms at both ends, and the work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from phiopt._checks import known
from phiopt._figures import COLOURS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(solution: Any, path: str | os.PathLike[str] | None = None) -> Figure:
    """Three panels of a `Solution`; see its method ``plot``."""
    figure = new_figure("Solution.plot", 11, 3.6)
    steps, ends, work = figure.subplots(1, 3, width_ratios=(2, 1.4, 1))
    parts = _parts(solution)
    _draw_steps(steps, solution, parts)
    _draw_ends(ends, solution, parts)
    _draw_work(work, solution)
    figure.suptitle(f"{solution.status.name}, {solution.scale} scale", fontsize=10)
    if path is not None:
        save_figure(figure, path)
    return figure


def _parts(solution: Any) -> dict[str, float]:
    """The factor of each term with weight, by which its raw value becomes its part of the objective."""
    weights = {**dict(solution.lambdas.items()), **solution.extra}
    return {
        name: weight / solution.divisors.get(name, 1.0)
        for name, value in weights.items()
        if (weight := known(value) or 0.0) and name in solution.terms
    }


def _draw_steps(ax: Any, solution: Any, parts: dict[str, float]) -> None:
    """The objective and the parts of its terms on each step's sample, and the judges' values."""
    history = solution.history
    numbers = range(1, len(history) + 1)
    ax.plot(numbers, [row["objective"] for row in history], color="0.6", label="objective")
    for (name, factor), colour in zip(parts.items(), COLOURS * 9, strict=False):
        values = [factor * row[name] if name in row else float("nan") for row in history]
        ax.plot(numbers, values, color=colour, linewidth=1, label=name)
    judged = [
        (i, row["held_out"]) for i, row in zip(numbers, history, strict=True) if "held_out" in row
    ]
    judged.insert(0, (0, solution.start_objective))
    ax.plot(*zip(*judged, strict=True), "ko", markersize=4, label="judged, on draws kept apart")
    ax.set_xlabel("step")
    ax.set_ylabel("part of the objective")
    ax.legend(fontsize=7)


def _draw_ends(ax: Any, solution: Any, parts: dict[str, float]) -> None:
    """Each term's part of the objective at the start and at the end, and at the end on fresh draws."""
    certificate = solution.certificate
    for place, (name, factor) in enumerate(parts.items()):
        colour = (COLOURS * 9)[place]
        for side, terms, alpha in ((-0.2, solution.start_terms, 0.4), (0.2, solution.terms, 1.0)):
            ax.bar(
                place + side,
                factor * terms.get(name, float("nan")),
                0.36,
                color=colour,
                alpha=alpha,
            )
        if certificate is not None and name in certificate.terms:
            error = abs(factor) * certificate.standard_errors[name]
            ax.errorbar(place + 0.2, factor * certificate.terms[name], error, fmt="k.", capsize=3)
    ax.set_xticks(range(len(parts)), list(parts), rotation=30, fontsize=7)
    ax.set_title("start (pale), end, and fresh ± s.e.", fontsize=8)


def _draw_work(ax: Any, solution: Any) -> None:
    """What the solve evaluated."""
    stats = solution.stats
    work = {
        "steps": stats.steps,
        "gradients": stats.gradient,
        "forward passes": stats.forward,
        "HVPs": stats.hvp,
    }
    ax.barh(range(len(work)), list(work.values()), color="0.6")
    for place, value in enumerate(work.values()):
        ax.text(value, place, f" {value:g}", va="center", fontsize=7)
    ax.set_yticks(range(len(work)), list(work), fontsize=7)
    ax.invert_yaxis()
    ax.margins(x=0.25)
    ax.set_title(f"work: {stats.seconds:.3g} s", fontsize=8)
