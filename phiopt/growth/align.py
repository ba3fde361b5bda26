"""Pair the operations of the teacher with those of the student: module by module, by their places in the tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from phiopt.growth.catalogue import facts
from phiopt.growth.graph import Node, Trace
from phiopt.growth.likeness import Likeness
from phiopt.growth.named import Named
from phiopt.growth.optional import canonical, kind, paired
from phiopt.growth.runs import Computation, Item, Leaf, Run, inside, tree
from phiopt.growth.unpaired import refusal


@dataclass(frozen=True, eq=False)
class Block:
    """A block or a layer of the teacher that the student lacks.

    Attributes:
        module: The path of its module.
        nodes: Its operations, in order.
        residual: Whether it is a residual block.
    """

    module: str
    nodes: list[Node]
    residual: bool


_SMALL = 10
"""A layer is small if it has at most this part of the teacher's parameters."""
Step = tuple[Node | Block | None, Node | None]
"""(the teacher's node, the student's node). ``None`` stands for an operation that one model lacks."""
Labels = tuple[Callable[[str], str] | None, Callable[[str], str] | None]
"""What makes labels of the teacher's modules and of the student's; see `tree`."""


def align(teacher: Trace, student: Trace, named: Named) -> Iterator[list[Step]]:
    """Ways to pair the two computations, the most literal first.

    Networks of equal depth record the same operations. If they do not, modules are paired by their places in the tree:
    in each pair of modules, what is inside them is paired in order, so that as many operations as possible have a
    counterpart. Of equally good ways, modules of the same name are paired, and new ones come last. If this does not
    pair all of the teacher's operations, they are paired without regard to modules. Last, a student that is larger as a
    whole may lack residual blocks, and then small layers too.

    Args:
        teacher: The teacher's computation.
        student: The student's.
        named: Modules that belong together, if names and operations alone mislead.

    Raises:
        AlignmentError: An operation of the teacher has no counterpart, or ``named`` contradicts the computations.
    """
    named.check_order(teacher, student)
    sides = Computation.of(teacher), Computation.of(student)
    every = teacher.nodes, student.nodes
    if [kind(n) for n in every[0]] == [kind(n) for n in every[1]]:
        literal = list(zip(*every, strict=True))
        if all(named.allows(t, s) for t, s in literal):
            yield [*literal]
            if not named:
                return
    by_modules = _paired(sides, named, (None, None))
    if by_modules is not None:
        yield by_modules
    by_operations = _paired(sides, named, (named.likely, str))
    if by_operations is not None:
        yield by_operations
    if by_modules is None:
        fewer = _larger(student, teacher)
        by_blocks = _paired(sides, named, (None, None), fewer=True) if fewer else None
        if by_blocks is None and fewer:
            by_blocks = _paired(sides, named, (None, None), fewer=True, spare=_small(sides[0]))
        if by_blocks is not None:
            yield by_blocks
        raise refusal(*sides, named, fewer=fewer and by_blocks is None)


def _larger(student: Trace, teacher: Trace) -> bool:
    """Whether the student has more numbers in its parameters and buffers."""
    new, old = (sum(map(prod, trace.used.values())) for trace in (student, teacher))
    return new > old


def _small(teacher: Computation) -> Callable[[Run], bool]:
    """Whether a run of the teacher is a small layer: it keeps the shape of its input, or is added to something."""
    used = teacher.trace.used

    def small(run: Run) -> bool:
        own = sum(prod(shape) for name, shape in used.items() if inside(name, run.module))
        readers = teacher.trace.readers[run.nodes[-1].outputs[0].id]
        added = any(facts(node.name).branches is not None for node in readers)
        few = own * _SMALL <= sum(map(prod, used.values()))
        return bool(run.module) and few and (run.keeps_shape or (added and not run.adds))

    return small


def _paired(
    sides: tuple[Computation, Computation],
    named: Named,
    labels: Labels,
    *,
    fewer: bool = False,
    spare: Callable[[Run], bool] | None = None,
) -> list[Step] | None:
    """The best way to pair two computations; with ``labels`` without regard to modules. ``None`` if there is none.

    With ``fewer`` the student may lack residual blocks, and those runs of the teacher for which ``spare`` holds.
    """
    numbers: dict[object, int] = {}
    t, s = (
        tree(side, scope, numbers, label, spare=own)
        for side, scope, label, own in zip(sides, named.scopes, labels, (spare, None), strict=True)
    )
    for wrapped in (False, True) if labels[0] is None else (False,):
        likeness = Likeness(wrapped=wrapped, fewer=fewer)
        if likeness.match(t, s).possible:
            return list(_steps(likeness, sides, t, s))
    return None


def _steps(likeness: Likeness, sides: Sequence[Computation], t: Item, s: Item) -> Iterator[Step]:
    """The steps of two items that match."""
    if isinstance(t, Leaf) and isinstance(s, Leaf):
        yield from _parameters(sides[0], sides[1], t.node, s.node)
        yield t.node, s.node
        return
    for a, b in likeness.match(t, s).pairs:
        if a is not None and b is not None:
            yield from _steps(likeness, sides, a, b)
        elif isinstance(a, Run) and a.needed:
            yield from ((Block(x.module, x.nodes, x.residual), None) for x in _blocks(a))
        elif a is not None:
            yield from ((node, None) for node in a.nodes)
        elif b is not None:
            yield from ((None, node) for node in b.nodes)


def _blocks(run: Run) -> Iterator[Run]:
    """The residual blocks that ``run`` is made of, or itself."""
    parts = [item for item in run.items if isinstance(item, Run) and item.residual]
    if len(parts) < len(run.items):
        yield run
        return
    for part in parts:
        yield from _blocks(part)


def _parameters(teacher: Computation, student: Computation, t: Node, s: Node) -> Iterator[Step]:
    """The pairs of operations that lead from parameters to two matched operations, in order."""
    for a, b in paired(canonical(t), canonical(s)):
        if a.id in teacher.data or b.id in student.data:
            continue
        old, new = teacher.producers.get(a.id), student.producers.get(b.id)
        if old is not None and new is not None and old.name == new.name:
            yield from _parameters(teacher, student, old, new)
            yield old, new
