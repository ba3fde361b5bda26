"""The sweeps of θ and of |D2| as curves: test accuracy, clean and with noise, mean ± sd over seeds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.records import Record
from experiments.report.figures import STYLES, band, panels, save
from experiments.report.tables import BRIEF, by_method

UNIFORM = "uniform-"
"""Before θ in the names of the methods of `experiments.theta`."""
AGAINST_THETA = {name: BRIEF[name] for name in ("accuracy", "accuracy_30")}


def has_thetas(all_records: Sequence[Record]) -> bool:
    return len(_by_theta(all_records)) > 1


def theta_curves(all_records: Sequence[Record], title: str, path: Path) -> None:
    """U[0, θ] against θ; what has no θ is a level line."""
    swept = _by_theta(all_records)
    x = np.array(sorted(swept))
    levels = {m: r for m, r in by_method(all_records).items() if not m.startswith(UNIFORM)}
    figure, axes = panels(title, len(AGAINST_THETA))
    for axis, (measure, label) in zip(axes, AGAINST_THETA.items(), strict=True):
        heights = _columns([swept[theta] for theta in x], measure)
        if len(heights):
            band(axis, x, heights, "U[0, θ]", STYLES[0] | {"color": "#111111"})
        for style, (method, records) in zip(STYLES[1:], levels.items(), strict=False):
            height = np.array([[record["test"][measure]] for record in records])
            band(axis, x, np.repeat(height, len(x), axis=1), method, style)
        axis.set_xscale("log")
        axis.set_xlabel("θ")
        axis.set_ylabel(f"test {label}")
    save(figure, axes, path)


def size_curves(all_records: Sequence[Record], title: str, path: Path) -> None:
    """Every method against the number of D2's training images; ``all_records`` are of several tasks."""
    figure, axes = panels(title, len(BRIEF))
    for axis, (measure, label) in zip(axes, BRIEF.items(), strict=True):
        for style, (method, records) in zip(STYLES, by_method(all_records).items(), strict=False):
            sizes = sorted({record["examples"] for record in records})
            of_size = [[r for r in records if r["examples"] == size] for size in sizes]
            heights = _columns(of_size, measure)
            if len(heights):
                band(axis, np.array(sizes), heights, method, style)
        axis.set_xscale("log")
        axis.set_xlabel("training images of D2")
        axis.set_ylabel(label)
    save(figure, axes, path)


def _by_theta(all_records: Sequence[Record]) -> dict[float, list[Record]]:
    return {
        float(method.removeprefix(UNIFORM)): records
        for method, records in by_method(all_records).items()
        if method.startswith(UNIFORM)
    }


def _columns(groups: Sequence[Sequence[Record]], measure: str) -> np.ndarray:
    """One row a seed and one column a group; seeds that a group lacks are left out of all."""
    values = [{record["seed"]: record["test"][measure] for record in group} for group in groups]
    shared = sorted(set.intersection(*(set(of_seed) for of_seed in values)))
    return np.array([[of_seed[seed] for of_seed in values] for seed in shared])
