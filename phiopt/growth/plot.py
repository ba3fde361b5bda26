"""The growth map as a figure: the blocks of each matrix, or a bar for each layer."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phiopt._figures import new_figure, save_figure
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
MOST = 60
"""Layers in one figure."""


def plot(
    growth: MapContents, path: str | os.PathLike[str] | None = None, *, layers: bool = False
) -> Figure:
    """The blocks of each matrix, or with ``layers`` a bar for each layer; see
    [`GrowthMap.plot`][phiopt.growth.GrowthMap.plot].
    """
    figure = _of_layers(growth) if layers else _of_matrices(growth)
    if path is not None:
        save_figure(figure, path)
    return figure


def _of_matrices(growth: MapContents) -> Figure:
    """One panel for each matrix or kernel, rows downwards."""
    panels = [
        (p.student, blocks(p), p.input_axes) for p in growth.placements.values() if len(p.shape) > 1
    ]
    panels += [
        (name, np.full(shape[:2], 3), frozenset({1}))
        for name, shape in growth.fresh.items()
        if len(shape) > 1
    ]
    columns = min(4, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = new_figure("GrowthMap.plot", 3 * columns, 2.4 * rows + 0.6)
    from matplotlib.colors import ListedColormap

    shades = ListedColormap([(g, g, g) for g in _GREY])
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        _panel(ax, *panel, shades)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    _legend(figure, BLOCKS.values(), [shades(i) for i in range(4)])
    return figure


def _legend(figure: Figure, labels: Iterable[str], colours: Iterable[Any]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=colour, edgecolor="black", label=label)
        for label, colour in zip(labels, colours, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)


def _of_layers(growth: MapContents) -> Figure:
    """A bar for each layer, the first at the top: its coordinates that are the teacher's, and new ones."""
    counts = layer_counts(growth)
    figure = new_figure("GrowthMap.plot", 7, 1.2 + 0.22 * len(counts))
    ax = figure.subplots()
    old = np.array([carried / total for carried, total in counts.values()]) * 100
    places = np.arange(len(counts))
    ax.barh(places, old, color=str(_GREY[0]), edgecolor="black")
    ax.barh(places, 100 - old, left=old, color=str(_GREY[1]), edgecolor="black")
    for place, (_, total) in enumerate(counts.values()):
        ax.text(101, place, f"{total:,}", va="center", fontsize=7)
    ax.set_yticks(places, list(counts), fontsize=7)
    ax.invert_yaxis()
    ax.set_xlim(0, 115)
    ax.set_xticks(range(0, 101, 25))
    ax.set_xlabel("% of the layer's coordinates; beside it their number")
    _legend(figure, ("teacher's", "new"), [str(_GREY[0]), str(_GREY[1])])
    return figure


def layer_counts(growth: MapContents) -> dict[str, tuple[int, int]]:
    """How many of each layer's coordinates are the teacher's, and how many there are, in the student's order where it
    is known. Layers are modules with tensors of their own; more than `MOST` are put together by the first parts of
    their names.
    """
    shapes = {p.student: (math.prod(p.teacher_shape), p.shape) for p in growth.placements.values()}
    shapes |= {name: (0, shape) for name, shape in growth.fresh.items()}
    depth = max((name.count(".") for name in shapes), default=0)
    while True:
        counts: dict[str, tuple[int, int]] = {}
        for name in sorted(shapes, key=_in_order):
            layer = ".".join(name.split(".")[:-1][:depth]) or "the module itself"
            old, total = counts.get(layer, (0, 0))
            counts[layer] = old + shapes[name][0], total + math.prod(shapes[name][1])
        if len(counts) <= MOST or depth <= 1:
            return counts
        depth -= 1


def _in_order(name: str) -> list[tuple[int, str]]:
    """A key by which numbered parts of names are in the order of their numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


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


def _panel(
    ax: Any, name: str, picture: NDArray[np.int64], input_axes: Collection[int], shades: Any
) -> None:
    ax.imshow(picture, cmap=shades, vmin=-0.5, vmax=3.5, aspect="auto", interpolation="nearest")
    ax.set_title(f"{name}  {picture.shape[0]}×{picture.shape[1]}", fontsize=8)
    ax.set_ylabel(_axis(0, input_axes), fontsize=7)
    ax.set_xlabel(_axis(1, input_axes), fontsize=7)
    ax.tick_params(labelsize=6)


def _axis(number: int, input_axes: Collection[int]) -> str:
    """What the coordinates of a tensor's axis are."""
    return f"axis {number}: {'inputs' if number in input_axes else 'outputs'}"
