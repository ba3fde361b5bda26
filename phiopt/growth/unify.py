"""First-order unification of axes. Operations take axes apart and equate them.

A free axis takes the form that an operation needs, and keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phiopt.growth.axes import (
    Mismatch,
    Size,
    Term,
    cat,
    each,
    fixed,
    followed,
    interleaved,
    prod,
    product_of,
    sized,
    spread,
)
from phiopt.lift import nearest_indices


def find(term: Term) -> Term:
    """The term that ``term`` stands for, after following links.

    An *each* that an operation uses without its lead cannot depend on the lead. So its parts are equated.
    """
    term = followed(term)
    while term.kind == "each":
        for part in term.parts[1:]:
            unify(term.parts[0], part)
        term.kind = "link"
        term = followed(term)
    return term


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
            raise Mismatch(
                "a cut separates the teacher's coordinates from the student's that hold them"
            )
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
    """Cut a product between rows. Only a new row of the student may be cut inside."""
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
    if product_of(iter(sizes)) != term.size:
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
        if all(a.same for a, _ in pairs):  # one axis picks within every part
            lead = sized(*size)
            for a, b in pairs:
                b.lead = lead if b.lead is a else b.lead
            return lead, each([b for _, b in pairs], term.lead)
        return each([a for a, _ in pairs], term.lead), each([b for _, b in pairs], term.lead)
    node = find(term)
    if node.same or node.fewer:
        return sized(*size), sized(*rest)
    if node.kind == "free" and size[0] == size[1]:
        # Blocks that are packed into one axis, as queries, keys and values are, grow one by one.
        node.kind, node.parts = "cat", tuple(sized(*rest) for _ in range(size[0]))
    if node.kind == "free":
        node.kind, node.parts = "prod", (sized(*size), sized(*rest))
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
            if not spread(node):
                raise Mismatch("the index map of an axis is no product")
            # Of positions of resized images, rows and places within rows are spread for themselves.
            outer, inner = nearest_indices(*size), nearest_indices(*rest)
        return (
            fixed(outer, size[1], external=node.external),
            fixed(inner, rest[1], external=node.external),
        )
    if node.kind == "cat":
        return _factor_cat(node, size, rest)
    _align_rows(node)
    return _factor(node, size)


def _factor_cat(node: Term, size: Size, rest: Size) -> tuple[Term, Term]:
    """Take a concatenation apart into rows. If their number grows, all rows are equal; else each has its own form."""
    if size[0] == size[1]:
        lead = sized(*size)
        return lead, each(split_cat(node, [rest] * size[0]), lead)
    if any(p.t % rest[0] or p.s % rest[1] for p in node.parts):
        raise Mismatch(f"a concatenation does not fall into rows of {rest[0]} -> {rest[1]}")
    pairs = [_factor(p, (p.t // rest[0], p.s // rest[1])) for p in node.parts]
    for _, row in pairs[1:]:
        unify(pairs[0][1], row)
    return cat([outer for outer, _ in pairs]), pairs[0][1]


def unify(a: Term, b: Term) -> None:
    """Equate two axes of the same size. A free one becomes the other.

    Raises:
        Mismatch: Their index maps differ.
    """
    if a.size != b.size:
        raise Mismatch(f"axes of {a.t} -> {a.s} and {b.t} -> {b.s} meet")
    a, b = find(a), find(b)
    if a is b:
        return
    if b.kind == "free":
        a, b = b, a
    if a.kind == b.kind == "free":
        b.copied |= a.copied
    kinds = {a.kind, b.kind}
    if a.kind == "free":
        a.kind, a.parts = "link", (b,)
    elif "fixed" in kinds:
        _unify_fixed(*((a, b) if a.kind == "fixed" else (b, a)))
    elif kinds == {"zip"} and a.phase == b.phase and len(a.parts) == len(b.parts):
        _unify_all(a.parts, b.parts)
    elif "zip" in kinds and "cat" not in kinds:
        _align_rows(a if a.kind == "zip" else b)
        unify(a, b)
    elif kinds == {"cat"}:
        short, long = sorted((a, b), key=lambda term: term.parts[0].size)
        first, rest = _cut(long, short.parts[0].size)
        unify(short.parts[0], first)
        unify(cat(short.parts[1:]), rest)
    elif "zip" in kinds:
        _unify_pieces(*((a, b) if a.kind == "zip" else (b, a)))
    else:
        _unify_factors(*((a, b) if b.kind == "prod" else (b, a)))


def _unify_fixed(given: Term, other: Term) -> None:
    """Equate an axis of given index map with one that is decided."""
    assert given.fixed is not None
    if other.kind == "cat":
        _unify_pieces(given, other)
    elif other.fixed is None:
        _unify_factors(given, other)
    elif not np.array_equal(other.fixed, given.fixed) and not (spread(given) and spread(other)):
        raise Mismatch(
            "axes with different given index maps meet: one comes from the input, or was read along its neighbours "
            "as LocalResponseNorm and pooling over channels do",
            "Keep the size of this axis in the student",
        )


def _unify_pieces(whole: Term, concatenation: Term) -> None:
    sizes = [part.size for part in concatenation.parts]
    _unify_all(split_cat(whole, sizes), concatenation.parts)


def _unify_factors(whole: Term, product: Term) -> None:
    sizes = [part.size for part in product.parts]
    _unify_all(split_prod(whole, sizes), product.parts)


def _unify_all(first: Sequence[Term], second: Sequence[Term]) -> None:
    for a, b in zip(first, second, strict=True):
        unify(a, b)


def _align_rows(node: Term) -> None:
    """Make a zip a product, by equating its parts."""
    if node.phase != (0, 0) or any(p.size != node.parts[0].size for p in node.parts):
        raise Mismatch("interleaved axes of unequal length meet others")
    for part in node.parts[1:]:
        unify(node.parts[0], part)
    n = len(node.parts)
    node.kind, node.parts = "prod", (node.parts[0], Term(n, n))


def _cut_zip(node: Term, size: Size) -> tuple[Term, Term]:
    n, first, second = len(node.parts), [], []
    for i, part in enumerate(node.parts):
        # Of the first ``size`` positions, how many belong to part i in the teacher and in the student.
        of_part = [
            max(0, -(-(c - (i - p) % n) // n)) for c, p in zip(size, node.phase, strict=True)
        ]
        head, tail = _cut(part, (of_part[0], of_part[1]))
        first.append(head)
        second.append(tail)
    phase = (node.phase[0] + size[0]) % n, (node.phase[1] + size[1]) % n
    return interleaved(first, node.phase), interleaved(second, phase)
