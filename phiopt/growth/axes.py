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
Origin: TypeAlias = tuple[str, int]
"""(student's name of a tensor, dimension): the axis of a parameter that an axis of an activation comes from."""
Places: TypeAlias = NDArray[np.int64]


class Mismatch(ValueError):
    """Two axes cannot be the same; the caller adds where in the graph."""


@dataclass(eq=False, slots=True)
class Term:
    """One axis: ``kind`` says how ``parts`` or ``fixed`` give its places; a link forwards to the term it equals.

    A zip starts with part ``phase[0]`` on the teacher's side, ``phase[1]`` on the student's; ``lead`` is the axis that
    picks the part of an *each*.

    ``external`` marks coordinates that are no layer's units: ψ's new pixels, the student's new classes. ``silent`` and
    ``gain`` tell the tensors that make these coordinates what keeps the function: new ones at zero because two
    activations are contracted over them, old ones multiplied because a constant of the student differs.
    """

    t: int
    s: int
    kind: Literal["free", "cat", "prod", "zip", "each", "fixed", "link"] = "free"
    parts: tuple[Term, ...] = ()
    fixed: Places | None = None
    phase: Size = (0, 0)
    lead: Term | None = None
    external: bool = False
    silent: set[Origin] = field(default_factory=set)
    gain: dict[Origin, float] = field(default_factory=dict)

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


def _moved(term: Term) -> bool:
    """Whether places are given that change the order of an axis of equal size on both sides."""
    while term.kind == "link":
        term = term.parts[0]
    return term.kind == "fixed" or any(_moved(part) for part in term.parts)


def find(term: Term) -> Term:
    """The term that ``term`` stands for, after following links.

    An *each* that is used by itself cannot depend on another axis: its parts are equated.
    """
    while term.kind in ("link", "each"):
        if term.kind == "each":
            for part in term.parts[1:]:
                unify(term.parts[0], part)
            term.kind = "link"
        term = term.parts[0]
    return term


def fixed(places: Places, s: int, *, external: bool = False) -> Term:
    """An axis whose teacher coordinate ``i`` sits at ``places[i]``."""
    if np.array_equal(places, np.arange(s)):
        return Term(s, s)
    return Term(
        len(places), s, "fixed", fixed=np.asarray(places, dtype=np.int64), external=external
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
    t, s = _product(f.size for f in flat)
    return Term(t, s) if all(p.same for p in flat) else Term(t, s, "prod", flat)


def _regrouped(factors: list[Term]) -> list[Term]:
    """An *each* next to the axis that picks its part is a concatenation again, or a zip."""
    for i, (a, b) in enumerate(pairwise(factors)):
        if b.kind == "each" and b.lead is a:
            return [*factors[:i], cat(b.parts), *_regrouped(factors[i + 2 :])]
        if a.kind == "each" and a.lead is b:
            return [*factors[:i], _zip(a.parts), *_regrouped(factors[i + 2 :])]
    return factors


def _each(parts: Sequence[Term], lead: Term | None) -> Term:
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


def _zip(parts: Sequence[Term], phase: Size = (0, 0)) -> Term:
    t, s = sum(p.t for p in parts), sum(p.s for p in parts)
    same = all(p.same for p in parts)
    return Term(t, s) if same else Term(t, s, "zip", tuple(parts), phase=phase)


def _align_rows(node: Term) -> None:
    """Make a zip a product: its parts have the same places."""
    if node.phase != (0, 0) or any(p.size != node.parts[0].size for p in node.parts):
        raise Mismatch("interleaved axes of unequal length meet others")
    for part in node.parts[1:]:
        unify(node.parts[0], part)
    n = len(node.parts)
    node.kind, node.parts = "prod", (node.parts[0], Term(n, n))


def _cut_zip(node: Term, size: Size) -> tuple[Term, Term]:
    n, first, second = len(node.parts), [], []
    for i, part in enumerate(node.parts):
        # How many of the first ``size`` positions belong to part i, on either side.
        of_part = [
            max(0, -(-(c - (i - p) % n) // n)) for c, p in zip(size, node.phase, strict=True)
        ]
        head, tail = _cut(part, (of_part[0], of_part[1]))
        first.append(head)
        second.append(tail)
    phase = (node.phase[0] + size[0]) % n, (node.phase[1] + size[1]) % n
    return _zip(first, node.phase), _zip(second, phase)


def _flatten(terms: Sequence[Term], kind: str) -> tuple[Term, ...]:
    flat: list[Term] = []
    for term in terms:
        head = term if term.kind == "each" else find(term)
        flat.extend(head.parts if head.kind == kind else (term,))
    return tuple(flat)


def _product(sizes: Iterator[Size]) -> Size:
    t = s = 1
    for dt, ds in sizes:
        t, s = t * dt, s * ds
    return t, s


def split_cat(term: Term, sizes: Sequence[Size]) -> list[Term]:
    """Take an axis apart into consecutive pieces of the given sizes."""
    pieces, rest = [], term
    for size in sizes[:-1]:
        piece, rest = _cut(rest, size)
        pieces.append(piece)
    if rest.size != sizes[-1]:
        raise Mismatch(f"pieces {list(sizes)} do not add up to an axis of {term.t} -> {term.s}")
    return [*pieces, rest]


def _cut(term: Term, size: Size) -> tuple[Term, Term]:
    """The first ``size`` coordinates of an axis, and the others."""
    rest_size = term.t - size[0], term.s - size[1]
    if size == (0, 0):
        return Term(0, 0), term
    if rest_size == (0, 0):
        return term, Term(0, 0)
    node = find(term)
    if min(rest_size) < 0:
        raise Mismatch(f"cannot cut {size[0]} -> {size[1]} off an axis of {term.t} -> {term.s}")
    if node.same or node.kind == "free":
        first, second = Term(*size), Term(*rest_size)
        if not node.same:
            node.kind, node.parts = "cat", (first, second)
        return first, second
    if node.kind == "fixed":
        assert node.fixed is not None
        low, high = node.fixed[: size[0]], node.fixed[size[0] :]
        if (low >= size[1]).any() or (high < size[1]).any():
            raise Mismatch("a cut separates coordinates from their places")
        return (
            fixed(low, size[1], external=node.external),
            fixed(high - size[1], rest_size[1], external=node.external),
        )
    if node.kind == "cat":
        head, *tail = node.parts
        if head.t <= size[0] and head.s <= size[1]:
            first, second = _cut(cat(tail), (size[0] - head.t, size[1] - head.s))
            return (head if first.size == (0, 0) else cat([head, first])), second
        first, second = _cut(head, size)
        return first, cat([second, *tail])
    return _cut_zip(node, size) if node.kind == "zip" else _cut_rows(node, size)


def _cut_rows(node: Term, size: Size) -> tuple[Term, Term]:
    """Cut a product between rows; a row that the student alone has may be cut inside."""
    head, inner = node.parts[0], prod(node.parts[1:])
    if size[0] % inner.t:
        raise Mismatch(
            f"a cut of {size[0]} -> {size[1]} falls inside rows of {inner.t} -> {inner.s}"
        )
    rows, within = size[0] // inner.t, size[1] % inner.s
    if within == 0:
        first, second = _cut(head, (rows, size[1] // inner.s))
        return prod([first, inner]), prod([second, inner])
    above = rows, size[1] // inner.s
    first, _, second = split_cat(head, [above, (0, 1), (head.t - rows, head.s - above[1] - 1)])
    return (
        cat([prod([first, inner]), Term(0, within)]),
        cat([Term(0, inner.s - within), prod([second, inner])]),
    )


def split_prod(term: Term, sizes: Sequence[Size]) -> list[Term]:
    """Take an axis apart into row-major factors of the given sizes."""
    if _product(iter(sizes)) != term.size:
        raise Mismatch(f"factors {list(sizes)} do not multiply to an axis of {term.t} -> {term.s}")
    factors, rest = [], term
    for size in sizes:
        factor, rest = _factor(rest, size)
        factors.append(factor)
    return factors


def _factor(term: Term, size: Size) -> tuple[Term, Term]:
    """The leading factor of ``size`` of an axis, and the axis of the other factors."""
    if size == (1, 1):
        return Term(1, 1), term
    if term.size == size:
        return term, Term(1, 1)
    if size[0] == 0 or term.t % size[0] or term.s % size[1]:
        raise Mismatch(f"{size[0]} -> {size[1]} is not a factor of an axis of {term.t} -> {term.s}")
    rest = term.t // size[0], term.s // size[1]
    if term.kind == "each":
        pairs = [_factor(part, size) for part in term.parts]
        return _each([a for a, _ in pairs], term.lead), _each([b for _, b in pairs], term.lead)
    node = find(term)
    if node.same:
        return Term(*size), Term(*rest)
    if node.kind == "free" and size[0] == size[1]:
        # Blocks packed into one axis, as queries, keys and values are, grow each by itself.
        node.kind, node.parts = "cat", tuple(Term(*rest) for _ in range(size[0]))
    if node.kind == "free":
        node.kind, node.parts = "prod", (Term(*size), Term(*rest))
        return node.parts[0], node.parts[1]
    if node.kind == "prod":
        head, tail = node.parts[0], prod(node.parts[1:])
        if head.size == size:
            return head, tail
        if head.t % size[0] == 0 and head.s % size[1] == 0:
            first, second = _factor(head, size)
            return first, prod([second, tail])
        if size[0] % head.t == 0 and size[1] % head.s == 0:
            first, second = _factor(tail, (size[0] // head.t, size[1] // head.s))
            return prod([head, first]), second
        raise Mismatch(f"factors of {head.t} -> {head.s} and {size[0]} -> {size[1]} do not nest")
    if node.kind == "fixed":
        assert node.fixed is not None
        grid = node.fixed.reshape(size[0], rest[0])
        outer, inner = grid[:, 0] // rest[1], grid[0] % rest[1]
        if not np.array_equal(grid, outer[:, None] * rest[1] + inner[None]):
            raise Mismatch("the places of an axis are not a product")
        return (
            fixed(outer, size[1], external=node.external),
            fixed(inner, rest[1], external=node.external),
        )
    if node.kind == "cat":
        return _factor_cat(node, size, rest)
    _align_rows(node)
    return _factor(node, size)


def _factor_cat(node: Term, size: Size, rest: Size) -> tuple[Term, Term]:
    """Rows of a concatenation: each its own where their number does not grow, else all the same."""
    if size[0] == size[1]:
        lead = Term(*size)
        return lead, _each(split_cat(node, [rest] * size[0]), lead)
    if any(p.t % rest[0] or p.s % rest[1] for p in node.parts):
        raise Mismatch(f"a concatenation does not fall into rows of {rest[0]} -> {rest[1]}")
    pairs = [_factor(p, (p.t // rest[0], p.s // rest[1])) for p in node.parts]
    for _, row in pairs[1:]:
        unify(pairs[0][1], row)
    return cat([outer for outer, _ in pairs]), pairs[0][1]


def unify(a: Term, b: Term) -> None:
    """Equate two axes of the same size, deciding whichever is still free.

    Raises:
        Mismatch: their places differ.
    """
    if a.size != b.size:
        raise Mismatch(f"axes of {a.t} -> {a.s} and {b.t} -> {b.s} meet")
    a, b = find(a), find(b)
    if a is b:
        return
    if b.kind == "free":
        a, b = b, a
    if a.kind == "free":
        a.kind, a.parts = "link", (b,)
    elif a.kind == "fixed" or b.kind == "fixed":
        given, other = (a, b) if a.kind == "fixed" else (b, a)
        assert given.fixed is not None
        if other.fixed is not None:
            if not np.array_equal(other.fixed, given.fixed):
                raise Mismatch(
                    "axes with different given places meet: one comes from the input, or was read along its neighbours "
                    "as LocalResponseNorm and pooling over channels do; keep the size of this axis in the student"
                )
        elif other.kind == "cat":
            for mine, part in zip(
                split_cat(given, [p.size for p in other.parts]), other.parts, strict=True
            ):
                unify(mine, part)
        else:
            for mine, part in zip(
                split_prod(given, [p.size for p in other.parts]), other.parts, strict=True
            ):
                unify(mine, part)
    elif "zip" in (a.kind, b.kind) and "cat" not in (a.kind, b.kind):
        if a.kind == b.kind and a.phase == b.phase and len(a.parts) == len(b.parts):
            for mine, part in zip(a.parts, b.parts, strict=True):
                unify(mine, part)
        else:
            _align_rows(a if a.kind == "zip" else b)
            unify(a, b)
    elif a.kind == "cat" and b.kind == "cat":
        short, long = sorted((a, b), key=lambda term: term.parts[0].size)
        first, rest = _cut(long, short.parts[0].size)
        unify(short.parts[0], first)
        unify(cat(short.parts[1:]), rest)
    elif "zip" in (a.kind, b.kind):
        zipped, pieces = (a, b) if a.kind == "zip" else (b, a)
        for mine, part in zip(
            split_cat(zipped, [p.size for p in pieces.parts]), pieces.parts, strict=True
        ):
            unify(mine, part)
    else:
        whole, product = (a, b) if b.kind == "prod" else (b, a)
        sizes = [p.size for p in product.parts]
        for mine, part in zip(split_prod(whole, sizes), product.parts, strict=True):
            unify(mine, part)
