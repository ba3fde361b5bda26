"""The best way to pair two sequences in order, by how well their items match."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEVER = -(10**12)
"""The score of items that do not match, and of an item that cannot be left out."""

Indices = tuple[int | None, int | None]
"""(place in the first sequence, place in the second). ``None`` stands for an item that the other sequence lacks."""


def in_order(
    scores: NDArray[np.int64], omissions: NDArray[np.int64], insertion: int
) -> tuple[int, list[Indices]]:
    """Pair the items of two sequences so that no pairs cross and the sum of all scores is the largest.

    Of equally good ways, items of the second sequence that stay alone come as late as possible.

    Args:
        scores: How well each item of the first sequence matches each of the second, shape ``(n, m)``.
        omissions: The score of leaving out each item of the first sequence, shape ``(n,)``.
        insertion: The score of leaving out an item of the second.

    Returns:
        The sum of the scores, below ``NEVER / 2`` if nothing pairs the sequences, and the pairs in order.
    """
    n, m = scores.shape
    best = np.empty((n + 1, m + 1), dtype=np.int64)
    later = insertion * np.arange(m, -1, -1)
    best[n] = later
    for i in range(n - 1, -1, -1):
        row = best[i + 1] + omissions[i]
        np.maximum(row[:-1], best[i + 1, 1:] + scores[i], out=row[:-1])
        # What is left alone from here on costs ``insertion`` each, up to the place where the best way goes on.
        best[i] = np.maximum.accumulate((row - later)[::-1])[::-1] + later
        np.maximum(best[i], NEVER, out=best[i])
    pairs: list[Indices] = []
    i = j = 0
    while i < n or j < m:
        if i < n and best[i, j] == best[i + 1, j] + omissions[i]:
            pairs.append((i, None))
            i += 1
        elif i < n and j < m and best[i, j] == best[i + 1, j + 1] + scores[i, j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif j < m:
            pairs.append((None, j))
            j += 1
        else:
            break
    return int(best[0, 0]), pairs
