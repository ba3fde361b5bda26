"""Let constants decide which of the student's coordinates are the teacher's.

Rotary frequencies and the slopes of linear biases are functions of the number of coordinates. Where the teacher's are
among the student's, the coordinates that have them correspond, and the constants are equal. Where they are not, the
axis stays undecided, and the comparison of constants says why the map is not exact.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from phiopt.growth.axes import Indices, Term
from phiopt.growth.correspond import Correspondence
from phiopt.growth.index_map import index_map, positions
from phiopt.growth.options import equal_constants
from phiopt.growth.unify import find

Rows = list[tuple[Tensor, Tensor]]
"""Teacher's and student's rows along one axis, of several constants."""
_PASSES = 2
"""An axis may be read only when another one of the same constant is decided."""


def decide_by_constants(state: Correspondence) -> None:
    """Give the free axes of constants that grow the index map under which the constants are equal, if there is one.

    All constants along an axis decide together: of slow frequencies the cosines are all 1, and only the sines differ.
    """
    for _ in range(_PASSES):
        axes: dict[int, tuple[Term, Rows]] = {}
        for c in state.constants:
            t, s = (v.cpu() for v in c.values)
            if c.picks is None and t.is_floating_point() and s.is_floating_point():
                _collect([axis.term for axis in c.pair.axes], t, s, axes)
        for node, rows in axes.values():
            t, s = (torch.cat(x, 1) for x in zip(*rows, strict=True))
            node.distinct |= not bool((s == s[:1]).all())
            indices = _partners(t, s)
            if indices is not None and not np.array_equal(indices, np.arange(node.t)):
                node.kind, node.fixed = "fixed", indices


def _collect(terms: list[Term], t: Tensor, s: Tensor, axes: dict[int, tuple[Term, Rows]]) -> None:
    """Add the rows along the free axes among ``terms``, compared where the other axes are known to be."""
    for dim, term in enumerate(terms):
        if term.same:
            continue
        rows = s
        for other, of_other in enumerate(terms):
            if other != dim:
                rows = rows.index_select(other, torch.from_numpy(index_map(of_other)))
        old, new = (x.movedim(dim, 0).reshape(x.shape[dim], -1) for x in (t, rows))
        _collect_rows(term, old, new, axes)


def _collect_rows(term: Term, t: Tensor, s: Tensor, axes: dict[int, tuple[Term, Rows]]) -> None:
    node = find(term)
    if node.same or node.fixed is not None or not node.t:
        return
    if node.kind == "prod":
        sizes = list(zip(*(part.size for part in node.parts), strict=True))
        old, new = (x.reshape(*size, -1) for x, size in zip((t, s), sizes, strict=True))
        _collect([*node.parts, Term(old.shape[-1], new.shape[-1])], old, new, axes)
    elif node.parts:
        for part, old_at, new_at in zip(node.parts, *positions(node), strict=True):
            _collect_rows(part, t[torch.from_numpy(old_at)], s[torch.from_numpy(new_at)], axes)
    elif node.kind == "free":
        axes.setdefault(id(node), (node, []))[1].append((t.double(), s.double()))


def _partners(t: Tensor, s: Tensor) -> Indices | None:
    """A row of ``s`` for each row of ``t`` that equals it, each once; ``None`` if some row has none."""
    taken: list[int] = []
    for row in t:
        same = (row == s).all(1)
        if not same.any():
            same = equal_constants(row.expand_as(s), s).all(1)
        free = [j for j in torch.nonzero(same).flatten().tolist() if j not in taken]
        if not free:
            return None
        taken.append(free[0])
    return np.array(taken, dtype=np.int64)
