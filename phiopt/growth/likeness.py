"""How well two runs of modules match: as well as their operations do, paired in the best order.

A match of two operations counts `MATCH`. The other numbers decide between ways to match as many.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phiopt.growth.runs import Form, Item, Leaf, Run
from phiopt.growth.subsequence import NEVER, in_order

MATCH = 1000
OMISSION = -500
"""An operation of the teacher that the student lacks."""
SHRINKS = -500
"""What the student's operation makes is smaller, or one of the models has a parameter in the place of data."""
CHANGES = -100
"""One of the operations keeps the size of an axis that the other changes."""
INSERTION = -20
"""An operation, or a run of a module, that only the student has in a module that both have."""
_LACKING = -(10**7)
"""An item of the teacher that the student lacks, where it must not. The fewest are to be named."""
NAME, NUMBER = 50, 1
"""Two modules of the same name. A name with a number tells less."""


Pairs = Sequence[tuple[Item | None, Item | None]]
"""Pairs of the teacher's items and the student's, in order. ``None`` stands for an item that one model lacks."""


@dataclass(frozen=True)
class Match:
    """How two items match.

    Attributes:
        score: How well; below ``NEVER / 2`` if they do not.
        pairs: The pairs of what is inside.
    """

    score: int
    pairs: Pairs = ()

    @property
    def possible(self) -> bool:
        return self.score > NEVER / 2


_NO_MATCH = Match(NEVER)


class Likeness:
    """The likeness of items. It is found once for items that are alike.

    Args:
        wrapped: Whether a module may belong to a part of what is inside another one.
        fewer: Whether the student may lack residual blocks.
    """

    def __init__(self, *, wrapped: bool = False, fewer: bool = False) -> None:
        self._wrapped, self._fewer = wrapped, fewer
        self._scores: dict[tuple[int, int], int] = {}

    def match(self, t: Item, s: Item) -> Match:
        """The best match of the teacher's item ``t`` and the student's ``s``."""
        if isinstance(t, Leaf) and isinstance(s, Leaf):
            return Match(_operations(t.form, s.form))
        if isinstance(t, Leaf) or isinstance(s, Leaf) or not self._has_all(t, s):
            return _NO_MATCH
        direct = self._in_order(t.items, s.items)
        if direct.possible or not self._wrapped:
            return direct
        wrapped = self._in_order([t], s.items), self._in_order(t.items, [s])
        return max(wrapped, key=lambda match: match.score)

    def spares(self, t: Run) -> bool:
        """Whether the student may lack a module: as the residual block that it is, or as one that is spared."""
        return self._fewer and (t.residual or t.spared) and not t.scoped

    def _has_all(self, t: Run, s: Run) -> bool:
        """Whether the student's module has as many operations of each kind as the teacher's needs."""
        return (t.core if self._fewer else t.needed) <= s.kinds

    def nearly(self, t: Run, s: Run) -> Pairs:
        """The pairs of what is inside two modules if the student may lack anything."""
        return self._in_order(t.items, s.items, _LACKING).pairs

    def _in_order(self, ts: Sequence[Item], ss: Sequence[Item], lacking: int = NEVER) -> Match:
        if not ts or not ss:
            return _NO_MATCH
        scores = _table(ts, ss, lambda item: item.number, self._score)
        scores += _table(ts, ss, lambda item: item.name, _same_name)
        omissions = np.array([max(self._omission(t), lacking) for t in ts], dtype=np.int64)
        score, pairs = in_order(scores, omissions, INSERTION)
        chosen = [(None if i is None else ts[i], None if j is None else ss[j]) for i, j in pairs]
        return Match(score, chosen)

    def _omission(self, item: Item) -> int:
        if isinstance(item, Leaf):
            return OMISSION if item.form.omissible else NEVER
        return OMISSION * item.kinds.total() if self.spares(item) or not item.needed else NEVER

    def _score(self, t: Item, s: Item) -> int:
        if t.operation != s.operation:
            return NEVER
        key = t.number, s.number
        if key not in self._scores:
            self._scores[key] = self.match(t, s).score
        return self._scores[key]


def _table(
    ts: Sequence[Item],
    ss: Sequence[Item],
    of: Callable[[Item], Hashable],
    score: Callable[[Item, Item], int],
) -> NDArray[np.int64]:
    """The score of each of ``ts`` and each of ``ss``, which depends only on what ``of`` makes of them."""
    rows, columns = {of(t): t for t in ts}, {of(s): s for s in ss}
    table = np.array(
        [[score(t, s) for s in columns.values()] for t in rows.values()], dtype=np.int64
    )
    places = [{key: i for i, key in enumerate(kinds)} for kinds in (rows, columns)]
    return table[np.ix_([places[0][of(t)] for t in ts], [places[1][of(s)] for s in ss])]


def _operations(t: Form, s: Form) -> int:
    if (t.kind, t.scope, t.last) != (s.kind, s.scope, s.last):
        return NEVER
    shrinks = t.reads != s.reads or any(
        len(a) != len(b) or any(x > y for x, y in zip(a, b, strict=True))
        for a, b in zip(t.after, s.after, strict=False)
    )
    return MATCH + SHRINKS * shrinks + CHANGES * (_changes(t) != _changes(s))


def _changes(form: Form) -> list[int]:
    """Of each axis, whether the operation makes it shorter (-1), keeps it (0) or makes it longer (1)."""
    sizes = zip(form.before, form.after[0], strict=False)
    return [(b > a) - (b < a) for a, b in sizes]


def _same_name(t: Item, s: Item) -> int:
    if t.name != s.name:
        return 0
    return NUMBER if any(part.isdigit() for part in t.name.split(".")) else NAME
