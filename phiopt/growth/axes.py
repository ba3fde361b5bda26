"""Where the teacher's coordinates of one axis sit among the student's: a small algebra of axes.

An axis pairs ``t`` teacher coordinates with ``s >= t`` student coordinates. What is known of the pairing is a term:

* a *free* axis, decided by nobody yet, puts the teacher first: ``0, ..., t - 1``;
* a *concatenation* of axes, as ``torch.cat`` makes and ``chunk`` takes apart;
* a *product* of axes, row-major, as ``flatten`` makes and ``view`` takes apart;
* a *zip*, several axes interleaved, as a channel shuffle makes of a concatenation;
* *each*: an axis whose places depend on another one, as the columns of a concatenation viewed as rows;
* a *fixed* axis has its places given, as the input's are by the lift ψ.

Operations on activations split, join and equate terms; a free axis takes the form that an operation
needs (first-order unification). An axis with ``t == s`` can only be the identity, so it carries no
structure, unless its places are given in another order: only axes that grow or are reordered are ever reasoned about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Size: TypeAlias = tuple[int, int]
"""(teacher's size, student's size) of one axis."""
ParameterAxis: TypeAlias = tuple[str, int]
"""(student's name of a tensor, dimension): the axis of a parameter that an axis of an activation comes from."""
Indices: TypeAlias = NDArray[np.int64]


class Mismatch(ValueError):
    """Two axes cannot be the same. Whoever knows the operations makes an `AlignmentError` of it.

    Attributes:
        remedy: What settles it, where that is known.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.remedy = remedy


@dataclass(eq=False, slots=True)
class Term:
    """One axis: ``kind`` says how ``parts`` or ``fixed`` give its places; a link forwards to the term it equals.

    A zip starts with part ``phase[0]`` on the teacher's side, ``phase[1]`` on the student's; ``lead`` is the axis that
    picks the part of an *each*.

    ``external`` marks coordinates that are no layer's units: ψ's new pixels, the student's new classes. ``zero_new``
    and ``rescale`` say how the parameters that make these coordinates keep the function: new rows are zero, because two
    activations are contracted over them; rows are multiplied, because a constant of the student differs.
    """

    t: int
    s: int
    kind: Literal["free", "cat", "prod", "zip", "each", "fixed", "link"] = "free"
    parts: tuple[Term, ...] = ()
    fixed: Indices | None = None
    phase: Size = (0, 0)
    lead: Term | None = None
    external: bool = False
    zero_new: set[ParameterAxis] = field(default_factory=set)
    rescale: dict[ParameterAxis, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.t > self.s:
            raise Mismatch(f"{self.t} teacher coordinates do not fit into {self.s} of the student")

    @property
    def size(self) -> Size:
        return self.t, self.s

    @property
    def same(self) -> bool:
        """Whether every coordinate of the student's is the teacher's of its number."""
        return self.t == self.s and not _moved(self)


def followed(term: Term) -> Term:
    """The term at the end of a chain of links."""
    while term.kind == "link":
        term = term.parts[0]
    return term


def _moved(term: Term) -> bool:
    """Whether places are given that change the order of an axis of equal size on both sides."""
    term = followed(term)
    return term.kind == "fixed" or any(_moved(part) for part in term.parts)


def fixed(indices: Indices, s: int, *, external: bool = False) -> Term:
    """An axis whose teacher coordinate ``i`` sits at ``places[i]``."""
    if np.array_equal(indices, np.arange(s)):
        return Term(s, s)
    return Term(
        len(indices), s, "fixed", fixed=np.asarray(indices, dtype=np.int64), external=external
    )


def cat(parts: Sequence[Term]) -> Term:
    """The concatenation of axes."""
    flat = _flatten(parts, "cat")
    if len(flat) == 1:
        return flat[0]
    t, s = sum(p.t for p in flat), sum(p.s for p in flat)
    return Term(t, s) if all(p.same for p in flat) else Term(t, s, "cat", flat)


def prod(factors: Sequence[Term]) -> Term:
    """The row-major product of axes."""
    factors = _regrouped([f for f in factors if f.size != (1, 1)])
    flat = tuple(f for f in _flatten(factors, "prod") if f.size != (1, 1))
    if len(flat) == 1:
        return flat[0]
    t, s = product_of(f.size for f in flat)
    return Term(t, s) if all(p.same for p in flat) else Term(t, s, "prod", flat)


def _regrouped(factors: list[Term]) -> list[Term]:
    """An *each* next to the axis that picks its part is a concatenation again, or a zip."""
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
    return term.parts[i] if term.kind == "each" and term.lead is lead else term


def marked(term: Term) -> Iterator[Term]:
    """The axes of tensors that a mark on ``term`` belongs to: each block's own, where blocks are packed."""
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
