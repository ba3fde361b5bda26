"""Tables of positions of images of another size: the teacher's rows, resampled bicubically.

Where ψ resizes images, the grid of positions grows, and a table with a row for each position grows with it. Bicubic
interpolation is linear in the rows and separates by axes. So an axis of a table has a matrix, which is put together of
the matrices of its parts as the axis is: a grid of height and width is a product, class tokens before it are a
concatenation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from phiopt.growth.axes import Mismatch, Size, Term, cat, fixed, prod, spread
from phiopt.growth.correspond import Correspondence
from phiopt.growth.index_map import index_map, leaves, positions
from phiopt.growth.pairs import ConstantPair
from phiopt.growth.unify import find, unify
from phiopt.lift import nearest_indices

Weights = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""The weight of each of the teacher's rows in each of the student's, shape ``(s, t)``, and which rows are made so."""


def settle_tables(state: Correspondence) -> None:
    """Resample the tables of positions, and record them as reasons why the map is not exact."""
    if state.moves is None or not state.moves.resizes:
        return
    if not state.moves.keeps_values and not state.inexact_reasons:
        state.inexact_reasons[
            "the input: ψ interpolates, so that its coordinates hold other values"
        ] = None
    state.constants = [c for c in state.constants if not _decided(state, c)]
    for place in state.places.values():
        for dim, axis in enumerate(place.axes):
            grids = [leaf for leaf in leaves(axis.term) if _grown(leaf)]
            if dim in place.input_axes or not grids:
                continue
            place.resampled.add(dim)
            old, new = ("x".join(str(leaf.size[i]) for leaf in grids) for i in (0, 1))
            reason = (
                f"{place.student}: a table of positions is resampled bicubically, {old} to {new}"
            )
            state.inexact_reasons[reason] = None


def _grown(leaf: Term) -> bool:
    """Whether an axis is one of positions between which others are new."""
    return 1 < leaf.t < leaf.s and spread(leaf)


def resampled(value: Tensor, dim: int, term: Term) -> Tensor:
    """A tensor whose rows along ``dim`` are resampled from those that hold the teacher's."""
    weights, made = _weights(term)
    rows = value.index_select(dim, torch.from_numpy(index_map(term)).to(value.device)).movedim(
        dim, 0
    )
    matrix = torch.from_numpy(weights).to(value.device)
    new = (matrix @ rows.flatten(1).double()).reshape(-1, *rows.shape[1:]).movedim(0, dim)
    shape = [-1 if d == dim else 1 for d in range(value.ndim)]
    return torch.where(torch.from_numpy(made).to(value.device).reshape(shape), new.to(value), value)


def _weights(term: Term) -> Weights:
    node = find(term)
    if node.kind == "prod":
        weights: NDArray[np.float64] = np.ones((1, 1))
        made: NDArray[np.bool_] = np.ones(1, dtype=bool)
        for part in node.parts:
            inner, of_part = _weights(part)
            weights = np.kron(weights, inner).astype(np.float64)
            made = np.kron(made, of_part).astype(bool)
        return weights, made
    weights, made = np.zeros((node.s, node.t)), np.zeros(node.s, dtype=bool)
    if node.parts:
        for part, t, s in zip(node.parts, *positions(node), strict=True):
            weights[np.ix_(s, t)], made[s] = _weights(part)
    elif _grown(node):
        return _bicubic(node.t, node.s), np.ones(node.s, dtype=bool)
    else:
        weights[index_map(node), np.arange(node.t)], made[index_map(node)] = 1.0, True
    return weights, made


def _bicubic(old: int, new: int) -> NDArray[np.float64]:
    points = torch.eye(old, dtype=torch.float64, device="cpu")
    return F.interpolate(points[None, None], (new, old), mode="bicubic", antialias=True)[
        0, 0
    ].numpy()


def _decided(state: Correspondence, c: ConstantPair) -> bool:
    """Whether the indices of a table of relative positions decide its rows: a grid of offsets, and rows behind it."""
    if c.picks is None or find(c.picks.term).kind != "free" or c.picks.term.same:
        return False
    windows = [
        _window(index.cpu().numpy(), n) for index, n in zip(c.values, c.picks.size, strict=True)
    ]
    if windows[0] is None or windows[1] is None:
        return False
    sizes = [tuple(2 * n - 1 for n in window) for window in windows if window]
    grid = [fixed(nearest_indices(t, s), s, external=True) for t, s in zip(*sizes, strict=True)]
    behind: Size = tuple(n - a * b for n, (a, b) in zip(c.picks.size, sizes, strict=True))  # type: ignore[assignment]
    try:
        unify(c.picks.term, cat([prod(grid), Term(*behind)]) if any(behind) else prod(grid))
    except Mismatch:
        return False
    return True


def _window(index: NDArray[np.int64], rows: int) -> tuple[int, int] | None:
    """Height and width of the window whose offsets from position to position are the indices; ``None`` if none is.

    The indices are a square, of each position to each. A class token may come first.
    """
    side = round(index.size**0.5)
    if side * side != index.size or not np.issubdtype(index.dtype, np.integer):
        return None
    square = index.reshape(side, side)
    for first in (0, 1):
        inner = square[first:, first:]
        for height, width in _factors(len(inner)):
            y, x = np.divmod(np.arange(len(inner)), width)
            offsets = (y[:, None] - y + height - 1) * (2 * width - 1) + x[:, None] - x + width - 1
            if offsets.max(initial=0) < rows and np.array_equal(offsets, inner):
                return height, width
    return None


def _factors(n: int) -> Iterator[tuple[int, int]]:
    for height in range(1, n + 1):
        if n % height == 0:
            yield height, n // height
