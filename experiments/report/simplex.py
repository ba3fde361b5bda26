"""The simplex of λ drawn: ternary slices at fixed λ4, and a tetrahedron."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import mpltern  # noqa: F401  registers the projection "ternary"
import numpy as np
from matplotlib.figure import Figure

from experiments.report.figures import plain
from phiopt._files import atomic

MAP = "cividis"  # its luminance grows all along: it reads in grey
CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0.5, 3**0.5 / 2, 0], [0.5, 3**0.5 / 6, (2 / 3) ** 0.5]])
FLAT = 0.02
"""A λ4 below it is drawn as 0."""
NAMES = ("λ1 task", "λ2 proximity", "λ3 noise", "λ4 curvature")


def every(
    title: str, solved: Sequence[dict[str, Any]], learned: Sequence[dict[str, Any]], stem: Path
) -> dict[Path, str]:
    """Draw both beside ``stem``; their captions. Left out is what has too few points that are finite
    for every seed: slices without a triangle of them, or both.
    """
    triangles, solid = (
        stem.with_name(f"{stem.name}-{kind}.svg") for kind in ("slices", "tetrahedron")
    )
    lambdas, _ = _means(solved)
    drawn = {}
    if _levels(lambdas):
        slices(solved, learned, title, triangles)
        drawn[triangles] = f"{title}: ternary slices of the simplex of λ at fixed λ4"
    if len(lambdas):
        tetrahedron(solved, learned, title, solid)
        drawn[solid] = f"{title}: the simplex of λ, and the paths of the searches"
    return drawn


def slices(
    solved: Sequence[dict[str, Any]], learned: Sequence[dict[str, Any]], title: str, path: Path
) -> None:
    """One triangle for each λ4 of the lattice: the mean outer loss as shade and as number."""
    lambdas, values = _means(solved)
    levels = _levels(lambdas)
    figure = Figure(figsize=(4.2 * len(levels), 4.2), layout="constrained")
    figure.suptitle(plain(title))
    shade: dict[str, Any] = {"cmap": MAP, "vmin": values.min(), "vmax": values.max()}
    for number, level in enumerate(levels, 1):
        axis: Any = figure.add_subplot(
            1, len(levels), number, projection="ternary", ternary_sum=1 - level
        )
        here = lambdas[:, 3] == level
        corners, heights = lambdas[here, :3].T, values[here]
        drawn = axis.tripcolor(*corners, heights, shading="gouraud", rasterized=True, **shade)
        for *place, height in zip(*corners, heights, strict=True):
            box = {"facecolor": "white", "alpha": 0.7, "pad": 1, "linewidth": 0}
            axis.text(*place, f"{height:.3f}", ha="center", va="center", fontsize=7, bbox=box)
        axis.set_tlabel(NAMES[0])
        axis.set_llabel(NAMES[1])
        axis.set_rlabel(NAMES[2])
        axis.set_title(f"λ4 = {level:.3g}", pad=28)
        if level == 0:
            for end in (np.array(search["lambdas"]) for search in learned):
                if end[3] < FLAT:  # elsewhere it would lie in another slice
                    axis.plot(*(end[:3, None] / end[:3].sum()), "kx", markersize=7)
    figure.colorbar(drawn, ax=figure.axes, label="outer loss E, mean over seeds", shrink=0.7)
    _save(figure, path)


def tetrahedron(
    solved: Sequence[dict[str, Any]], learned: Sequence[dict[str, Any]], title: str, path: Path
) -> None:
    """The whole simplex: better points are larger and darker; lines are the paths of searches."""
    lambdas, values = _means(solved)
    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    axis: Any = figure.add_subplot(projection="3d")
    axis.set_title(plain(title), fontsize="medium")
    for i in range(4):
        for j in range(i):
            axis.plot(*CORNERS[[i, j]].T, color="0.7", linewidth=0.8)
        axis.text(*(1.08 * CORNERS[i] - 0.08 * CORNERS.mean(0)), NAMES[i], ha="center")
    good = (values.max() - values) / max(np.ptp(values), 1e-12)
    drawn = axis.scatter(
        *(lambdas @ CORNERS).T, c=values, s=15 + 150 * good**3, cmap=MAP, edgecolors="0.3"
    )
    for search in learned:
        best, way = np.inf, []
        for trial in search["path"]:
            if trial["outer"] is not None and trial["outer"] < best:
                best = trial["outer"]
                way.append(np.array(trial["lambdas"]) @ CORNERS)
        axis.plot(*np.array(way).T, "k--", marker=".", linewidth=0.8)
    axis.set_axis_off()
    figure.colorbar(drawn, ax=axis, label="outer loss E, mean over seeds", shrink=0.6)
    _save(figure, path)


def _levels(lambdas: np.ndarray) -> list[float]:
    """The λ4 at which points make a triangle."""
    levels = []
    for level in np.unique(lambdas[:, 3]):
        here = lambdas[lambdas[:, 3] == level, :3]
        if np.linalg.matrix_rank(here - here[:1], tol=1e-9) == 2:
            levels.append(float(level))
    return levels


def _means(solved: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Points that are finite for every seed, ``(points, 4)``, and their mean outer losses."""
    groups: dict[tuple[float, ...], list[float | None]] = {}
    for record in solved:
        groups.setdefault(tuple(record["lambdas"]), []).append(record["outer"])
    kept = {point: values for point, values in groups.items() if None not in values}
    means = [np.mean([value for value in values if value is not None]) for values in kept.values()]
    return np.array(list(kept)).reshape(-1, 4), np.array(means)


def _save(figure: Figure, path: Path) -> None:
    with matplotlib.rc_context({"svg.hashsalt": "phiopt"}), atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Date": None})
