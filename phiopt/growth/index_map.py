"""Read a decided axis: its leaves and its index map."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from phiopt.growth.axes import Indices, Term
from phiopt.growth.unify import find


def leaves(term: Term) -> Iterator[Term]:
    """The free and fixed axes that a term is made of."""
    node = find(term)
    if node.parts:
        for part in node.parts:
            yield from leaves(part)
    else:
        yield node


def index_map(term: Term) -> Indices:
    """The student's coordinate of each of the teacher's, shape ``(t,)``.

    Where a part of the axis has fewer coordinates in the student, those of the teacher that find no room there take the
    coordinates that are left. If the whole axis has fewer, several share one.
    """
    node = find(term)
    out = _index_map(node)
    if node.fewer or not any(find(part).fewer for part in node.parts):
        return out
    _, first = np.unique(out, return_index=True)
    late = np.setdiff1d(np.arange(node.t), first)
    out[late] = np.setdiff1d(np.arange(node.s), out)[: len(late)]
    return out


def _index_map(node: Term) -> Indices:
    if node.fixed is not None:
        return node.fixed
    if not node.parts:
        return np.arange(node.t) % max(node.s, 1)
    if node.kind == "prod":
        out = np.zeros(1, dtype=np.int64)
        for factor in node.parts:
            out = (out[:, None] * factor.s + index_map(factor)[None]).ravel()
        return out
    out = np.empty(node.t, dtype=np.int64)
    for part, t, s in zip(node.parts, *positions(node), strict=True):
        out[t] = s[index_map(part)]
    return out


def positions(node: Term) -> tuple[list[Indices], list[Indices]]:
    """The coordinates of each part of a concatenation or a zip: in the teacher, and in the student."""
    if node.kind == "zip":
        n = len(node.parts)
        return tuple(  # type: ignore[return-value]
            [(i - phase) % n + n * np.arange(p.size[side]) for i, p in enumerate(node.parts)]
            for side, phase in enumerate(node.phase)
        )
    out: tuple[list[Indices], list[Indices]] = [], []
    for side in (0, 1):
        start = 0
        for p in node.parts:
            out[side].append(start + np.arange(p.size[side]))
            start += p.size[side]
    return out
