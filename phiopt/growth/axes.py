"""A small algebra of axes: which of the student's coordinates hold the teacher's.

An axis has ``t`` coordinates in the teacher and ``s >= t`` in the student. Its index map gives the student's coordinate
of each of the teacher's. A term is what is known of the index map:

* a *free* axis is not decided yet. Left free, it puts the teacher first: ``0, ..., t - 1``;
* a *concatenation* of axes, as ``torch.cat`` makes and ``chunk`` takes apart;
* a *product* of axes, row-major, as ``flatten`` makes and ``view`` takes apart;
* a *zip*, several axes interleaved, as a channel shuffle makes of a concatenation;
* *each*: an axis whose index map depends on another axis, as the columns of a concatenation viewed as rows;
* a *fixed* axis has a given index map, as the lift ψ gives that of the input.

An axis with ``t == s`` is the identity, unless its index map is given in another order. It needs no structure. So only
axes that grow or change their order are reasoned about. `phiopt.growth.unify` takes terms apart and equates them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from phiopt.lift import nearest_indices

Size: TypeAlias = tuple[int, int]
"""(teacher's size, student's size) of one axis."""
ParameterAxis: TypeAlias = tuple[str, int]
"""(student's name of a parameter or buffer, dimension): one axis of it."""
Indices: TypeAlias = NDArray[np.int64]


class Mismatch(ValueError):
    """Two axes, or two operations, cannot be the same. A rule raises it to refuse; growth makes an `AlignmentError` of
    it, which names the two operations.

    Args:
        problem: What is wrong, a sentence without its end.
        remedy: What settles it, likewise, if that is known.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.remedy = remedy


@dataclass(eq=False, slots=True)
class Term:
    """One axis.

    Attributes:
        t: Size in the teacher.
        s: Size in the student.
        kind: How ``parts`` or ``fixed`` give the index map. A ``"link"`` stands for its only part.
        parts: The axes that this one is made of.
        fixed: A given index map.
        phase: Of a zip, the part that comes first in the teacher and in the student.
        lead: Of an *each*, the axis that picks the part.
        external: Whether new coordinates are no layer's units: they are ψ's new pixels, or new classes.
        copied: Whether new coordinates are copies of the only old one, under every function-preserving fill.
        distinct: Whether a new coordinate must be no copy of an old one: constants tell them apart, or it is zero at
            one of its makers.
        zero_new: Parameters whose new rows must be zero, because two activations are contracted over them.
        rescale: Factors of parameters' rows, which make up for another constant in the student.
        short: Whether the student may have fewer coordinates.

    A part of an axis may have fewer coordinates in the student, as heads have that are wider instead. Then the index
    map of the whole axis sends what finds no room to coordinates that are left, and the map is not exact.
    """

    t: int
    s: int
    kind: Literal["free", "cat", "prod", "zip", "each", "fixed", "link"] = "free"
    parts: tuple[Term, ...] = ()
    fixed: Indices | None = None
    phase: Size = (0, 0)
    lead: Term | None = None
    external: bool = False
    copied: bool = False
    distinct: bool = False
    zero_new: set[ParameterAxis] = field(default_factory=set)
    rescale: dict[ParameterAxis, float] = field(default_factory=dict)
    short: bool = False

    def __post_init__(self) -> None:
        if self.t > self.s and not self.short:
            raise Mismatch(
                f"{self.t} teacher coordinates do not fit into {self.s} of the student",
                "Give the student at least as many there. Where these are the width of a head, more heads need a wider "
                "layer, or a head width of their own (head_dim=)",
            )

    @property
    def size(self) -> Size:
        return self.t, self.s

    @property
    def fewer(self) -> bool:
        """Whether the student has fewer coordinates."""
        return self.t > self.s

    @property
    def same(self) -> bool:
        """Whether the index map is the identity and the axis does not grow."""
        return self.t == self.s and not _moved(self)


def followed(term: Term) -> Term:
    """The term at the end of a chain of links."""
    while term.kind == "link":
        term = term.parts[0]
    return term


def _moved(term: Term) -> bool:
    """Whether a given index map changes the order of an axis of equal sizes."""
    term = followed(term)
    return term.kind == "fixed" or any(_moved(part) for part in term.parts)


def fixed(indices: Indices, s: int, *, external: bool = False) -> Term:
    """An axis whose teacher coordinate ``i`` is the student's ``indices[i]``."""
    if np.array_equal(indices, np.arange(s)):
        return Term(s, s)
    return Term(
        len(indices), s, "fixed", fixed=np.asarray(indices, dtype=np.int64), external=external
    )


def spread(term: Term) -> bool:
    """Whether an axis is one of positions that ψ spreads evenly over more, as it does in resizing images."""
    given = term.fixed
    return (
        term.external and given is not None and np.array_equal(given, nearest_indices(*term.size))
    )


def cat(parts: Sequence[Term]) -> Term:
    """The concatenation of axes."""
    flat = _flatten(parts, "cat")
    if len(flat) == 1:
        return flat[0]
    t, s = sum(p.t for p in flat), sum(p.s for p in flat)
    return sized(t, s) if _plain(flat, t, s) else Term(t, s, "cat", flat)


def prod(factors: Sequence[Term]) -> Term:
    """The row-major product of axes."""
    factors = _regrouped([f for f in factors if f.size != (1, 1)])
    flat = tuple(f for f in _flatten(factors, "prod") if f.size != (1, 1))
    if len(flat) == 1:
        return flat[0]
    t, s = product_of(f.size for f in flat)
    return sized(t, s) if _plain(flat, t, s) else Term(t, s, "prod", flat)


def sized(t: int, s: int) -> Term:
    """An axis of which nothing is known. It may be one of which the student has fewer coordinates."""
    return Term(t, s, short=t > s)


def _plain(parts: Sequence[Term], t: int, s: int) -> bool:
    """Whether an axis has no use for its parts: none changes, or what one loses another makes up for, or not enough."""
    return all(p.same for p in parts) or (t >= s and any(p.fewer for p in parts))


def _regrouped(factors: list[Term]) -> list[Term]:
    """Join each *each* with the axis beside it that picks its part: to a concatenation, or to a zip."""
    for i, (a, b) in enumerate(pairwise(factors)):
        if b.kind == "each" and b.lead is a:
            return [*factors[:i], cat(b.parts), *_regrouped(factors[i + 2 :])]
        if a.kind == "each" and a.lead is b:
            return [*factors[:i], interleaved(a.parts), *_regrouped(factors[i + 2 :])]
    return factors


def each(parts: Sequence[Term], lead: Term | None) -> Term:
    head = parts[0]
    same = all(p.same for p in parts)
    return Term(*head.size) if same else Term(*head.size, "each", tuple(parts), lead=lead)


def picked(term: Term, lead: Term, i: int) -> Term:
    """``term`` where coordinate ``i`` of the axis ``lead`` is selected."""
    if term.kind != "each":
        return term
    if term.lead is lead:
        return term.parts[i]
    return each([picked(part, lead, i) for part in term.parts], term.lead)


def marked(term: Term) -> Iterator[Term]:
    """The axes that a mark on ``term`` belongs to: ``term`` itself, or each of the blocks that are packed in it."""
    if term.lead is None:
        yield term
    else:
        for part in term.parts:
            yield from marked(part)


def interleaved(parts: Sequence[Term], phase: Size = (0, 0)) -> Term:
    t, s = sum(p.t for p in parts), sum(p.s for p in parts)
    same = all(p.same for p in parts)
    return Term(t, s) if same else Term(t, s, "zip", tuple(parts), phase=phase)


def _flatten(terms: Sequence[Term], kind: str) -> tuple[Term, ...]:
    flat: list[Term] = []
    for term in terms:
        head = followed(term)
        flat.extend(head.parts if head.kind == kind else (term,))
    return tuple(flat)


def product_of(sizes: Iterator[Size]) -> Size:
    t = s = 1
    for dt, ds in sizes:
        t, s = t * dt, s * ds
    return t, s
