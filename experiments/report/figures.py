"""Learning and corruption curves with error bands, told apart without colour."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.records import Record
from experiments.report.tables import by_method, in_equal_epochs
from phiopt._files import atomic

COLOURS = ("#999999", "#d9a441", "#3aa6a6", "#2f6db3", "#8c1c4a", "#111111", "#5a8f3c")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")
MARKERS = "os^D*vPX<>h"
# Luminance, dashes and markers all differ between neighbours, and no two lines share dashes and
# marker, so that a grey print can be read.
STYLES: tuple[dict[str, Any], ...] = tuple(
    {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": DASHES[i % len(DASHES)],
        "marker": MARKERS[i % len(MARKERS)],
    }
    for i in range(len(DASHES) * len(MARKERS))
)
PANELS = {"accuracy": "accuracy", "cross_entropy": "cross-entropy"}


def every(title: str, all_records: Sequence[Record], stem: Path, suffix: str) -> dict[Path, str]:
    """Draw the figures of one task beside ``stem``; their captions."""
    drawn = {}

    def add(kind: str, caption: str) -> Path:
        path = stem.with_name(f"{stem.name}-{kind}{suffix}")
        drawn[path] = f"{title}: {caption}"
        return path

    caption = "validation accuracy and cross-entropy against epochs"
    learning_curves(all_records, title, add("learning", caption))
    if view := in_equal_epochs(all_records):
        path = add("equal-epochs", f"{caption}, φ's own not counted")
        learning_curves(view, f"{title}, equal epochs", path, "epochs of training on D2")
    path = add("corruption", "test accuracy and cross-entropy against corrupted pixels")
    corruption_curves(all_records, title, path)
    return drawn


def learning_curves(
    all_records: Sequence[Record],
    title: str,
    path: Path,
    against: str = "epochs of gradient evaluations, φ's own included",
) -> None:
    """Validation accuracy and loss, mean ± sd over seeds.

    Where φ's evaluations count, its curve stays at the start of its solver until the solution is paid for.
    """
    figure, axes = panels(title, len(PANELS))
    for axis, measure in zip(axes, PANELS, strict=True):
        for style, (method, records) in zip(STYLES, by_method(all_records).items(), strict=False):
            curves = [_curve(record, measure) for record in records]
            # A step is drawn as one: its foot is the last number below it.
            x = np.concatenate([x for x, _ in curves])
            x = np.unique(np.concatenate([x, *(_feet(x) for x, _ in curves)]))
            band(axis, x, np.stack([np.interp(x, *curve) for curve in curves]), method, style)
        axis.set_xlabel(against)
        axis.set_ylabel(f"validation {PANELS[measure]}")
    save(figure, axes, path)


def corruption_curves(all_records: Sequence[Record], title: str, path: Path) -> None:
    """Test accuracy and loss against the percentage of corrupted pixels, mean ± sd over seeds."""
    figure, axes = panels(title, len(PANELS))
    for axis, measure in zip(axes, PANELS, strict=True):
        for style, (method, records) in zip(STYLES, by_method(all_records).items(), strict=False):
            x = np.array(records[0]["corruption"]["percentages"])
            heights = np.array([record["corruption"][measure] for record in records])
            band(axis, x, heights, method, style)
        axis.set_xlabel("corrupted pixels, %")
        axis.set_ylabel(f"test {PANELS[measure]}")
    save(figure, axes, path)


def _curve(record: Record, measure: str) -> tuple[np.ndarray, np.ndarray]:
    curve = record["curve"]
    x = np.array([point["gradients"] for point in curve]) / record["epoch"]
    return x, np.array([point[measure] for point in curve])


def _feet(x: np.ndarray) -> np.ndarray:
    return np.nextafter(x[1:][np.diff(x) == 0], -np.inf)


def plain(text: str) -> str:
    """As it is written: a dollar would begin a formula."""
    return text.replace("$", r"\$")


def panels(title: str, count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(1.5 + 4.5 * count, 3.6), layout="constrained")
    figure.suptitle(plain(title))
    return figure, list(figure.subplots(1, count))


def band(axis: Axes, x: np.ndarray, heights: np.ndarray, label: str, style: dict[str, Any]) -> None:
    mean = heights.mean(0)
    every = max(1, len(x) // 10)
    axis.plot(x, mean, label=plain(label), markevery=every, markersize=5, linewidth=1.5, **style)
    if len(heights) > 1:
        sd = heights.std(0, ddof=1)
        axis.fill_between(x, mean - sd, mean + sd, color=style["color"], alpha=0.15, linewidth=0)


def save(figure: Figure, axes: Sequence[Axes], path: Path) -> None:
    for axis in axes:
        axis.grid(alpha=0.3)
    legend = axes[-1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1.02, 0.5))
    # So that many methods neither leave the page nor press the curves together.
    figure.set_figheight(max(figure.get_figheight(), 0.22 * len(legend.get_texts()) + 0.8))
    # A fixed salt and no date: the same records give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "phiopt"}), atomic(path) as temporary:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(temporary, dpi=120, metadata=metadata)
