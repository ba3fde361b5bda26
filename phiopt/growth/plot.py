"""The growth map as a figure: the blocks of each matrix."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phiopt._files import atomic
from phiopt.growth.contents import MapContents
from phiopt.growth.placement import Placement

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BLOCKS = {
    "old": "teacher's",
    "output": "new rows, which make new units",
    "input": "new columns, which read new units",
    "both": "new rows at new columns",
}
"""The block of a coordinate: in the teacher's rows and columns, in new rows, in new columns, or in both."""
_GREY = (0.25, 0.8, 0.55, 1.0)
"""Greys of the blocks in this order. They differ in print and for every reader."""


def plot(growth: MapContents, path: str | os.PathLike[str] | None = None) -> Figure:
    """One panel for each matrix or kernel, rows downwards; see [`GrowthMap.plot`][phiopt.growth.GrowthMap.plot]."""
    try:
        from matplotlib.colors import ListedColormap
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise ImportError(
            "GrowthMap.plot needs matplotlib: pip install 'phiopt[experiments]'"
        ) from error
    panels = [(p.student, blocks(p)) for p in growth.placements.values() if len(p.shape) > 1]
    panels += [
        (name, np.full(shape[:2], 3)) for name, shape in growth.fresh.items() if len(shape) > 1
    ]
    columns = min(4, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(3 * columns, 2.4 * rows + 0.6), layout="constrained")
    shades = ListedColormap([(g, g, g) for g in _GREY])
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, picture) in zip(axes, panels, strict=False):
        _panel(ax, name, picture, shades)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    handles = [
        Patch(facecolor=shades(i), edgecolor="black", label=label)
        for i, label in enumerate(BLOCKS.values())
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    if path is not None:
        _save(figure, Path(path))
    return figure


def _save(figure: Figure, path: Path) -> None:
    """Save the figure, whole or not at all."""
    path = path if path.suffix else path.with_suffix(".png")
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        endings = ", ".join(f".{kind}" for kind in sorted(known))
        raise ValueError(f"path: got {str(path)!r}, must end in one of {endings}")
    with atomic(path) as temporary:
        figure.savefig(temporary)


def blocks(place: Placement) -> NDArray[np.int64]:
    """The block of every coordinate of a tensor's first two axes, shape ``(rows, columns)``, as indices into `BLOCKS`.

    Input axes, which read units, count as columns. Output axes, which make units, count as rows.
    """
    new = []
    for size, index_map in zip(place.shape[:2], place.index_maps[:2], strict=True):
        fresh = np.ones(size, dtype=np.int64)
        fresh[index_map.numpy()] = 0
        new.append(fresh)
    # Old rows read new units along an input axis. New units are made along an output axis.
    weights = [2 if d in place.input_axes else 1 for d in range(2)]
    if weights[0] == weights[1]:
        weights = [1, 2]
    return weights[0] * new[0][:, None] + weights[1] * new[1][None]


def _panel(ax: Any, name: str, picture: NDArray[np.int64], shades: Any) -> None:
    ax.imshow(picture, cmap=shades, vmin=-0.5, vmax=3.5, aspect="auto", interpolation="nearest")
    ax.set_title(f"{name}  {picture.shape[0]}×{picture.shape[1]}", fontsize=8)
    ax.tick_params(labelsize=6)
