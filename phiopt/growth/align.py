"""Pair the operations of the teacher with those of the student: module by module, by their places in the tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from phiopt.growth.errors import AlignmentError
from phiopt.growth.graph import Node, Trace
from phiopt.growth.likeness import Likeness
from phiopt.growth.named import Named
from phiopt.growth.optional import canonical, kind, paired
from phiopt.growth.runs import Computation, Item, Leaf, tree

Step = tuple[Node | None, Node | None]
"""(the teacher's node, the student's node). ``None`` stands for an operation that one model lacks."""


def align(teacher: Trace, student: Trace, named: Named) -> Iterator[list[Step]]:
    """Ways to pair the two computations, the most literal first.

    Networks of equal depth record the same operations. If they do not, modules are paired by their places in the tree:
    in each pair of modules, what is inside them is paired in order, so that as many operations as possible have a
    counterpart. Of equally good ways, modules of the same name are paired, and new ones come last. If this does not
    pair all of the teacher's operations, they are paired without regard to modules.

    Args:
        teacher: The teacher's computation.
        student: The student's.
        named: Modules that belong together, if names and operations alone mislead.

    Raises:
        AlignmentError: An operation of the teacher has no counterpart, or ``named`` contradicts the computations.
    """
    named.check_order(teacher, student)
    ways = 0
    for steps in _ways(teacher, student, named):
        ways += 1
        yield steps
    if not ways:
        raise _refusal(teacher.nodes, student.nodes, named)


def _ways(teacher: Trace, student: Trace, named: Named) -> Iterator[list[Step]]:
    if [kind(n) for n in teacher.nodes] == [kind(n) for n in student.nodes]:
        literal = list(zip(teacher.nodes, student.nodes, strict=True))
        if all(named.allows(t, s) for t, s in literal):
            yield [*literal]
            if not named:
                return
    sides = Computation.of(teacher), Computation.of(student)
    for labels in ((None, None), (named.likely, str)):
        numbers: dict[object, int] = {}
        trees = [
            tree(side, scope, numbers, label)
            for side, scope, label in zip(sides, named.scopes, labels, strict=True)
        ]
        likeness = Likeness()
        if likeness.match(trees[0], trees[1]).possible:
            yield list(_steps(likeness, sides, trees[0], trees[1]))


def _steps(likeness: Likeness, sides: Sequence[Computation], t: Item, s: Item) -> Iterator[Step]:
    """The steps of two items that match."""
    if isinstance(t, Leaf) and isinstance(s, Leaf):
        yield from _parameters(sides[0], sides[1], t.node, s.node)
        yield t.node, s.node
        return
    for a, b in likeness.match(t, s).pairs:
        if a is not None and b is not None:
            yield from _steps(likeness, sides, a, b)
        elif a is not None:
            yield from ((node, None) for node in a.nodes)
        elif b is not None:
            yield from ((None, node) for node in b.nodes)


def _parameters(teacher: Computation, student: Computation, t: Node, s: Node) -> Iterator[Step]:
    """The pairs of operations that lead from parameters to two matched operations, in order."""
    for a, b in paired(canonical(t), canonical(s)):
        if a.id in teacher.data or b.id in student.data:
            continue
        old, new = teacher.producers.get(a.id), student.producers.get(b.id)
        if old is not None and new is not None and old.name == new.name:
            yield from _parameters(teacher, student, old, new)
            yield old, new


def _refusal(teacher: list[Node], student: list[Node], named: Named) -> AlignmentError:
    """The error of two computations that cannot be paired: it names the first operation that differs."""
    under = f", and under {named} they cannot be paired" if named else ""
    remedy = "Name other pairs with correspondence=" if named else ""
    for i, (t, s) in enumerate(zip(teacher, student, strict=False)):
        if kind(t) != kind(s):
            problem = f"operation {i} is {t.name} in the teacher but {s.name} in the student{under}"
            return AlignmentError.at(t, s, problem, remedy)
    if len(teacher) > len(student):
        node = teacher[len(student)]
        last = student[-1] if student else None
        problem = f"the teacher alone goes on, with {node.name}{under}"
        return AlignmentError.at(node, last, problem, remedy)
    if len(student) > len(teacher):
        node = student[len(teacher)]
        last = teacher[-1] if teacher else None
        problem = f"the student alone goes on, with {node.name}{under}"
        return AlignmentError.at(last, node, problem, remedy)
    forbidden = [(t, s) for t, s in zip(teacher, student, strict=True) if not named.allows(t, s)]
    first, second = forbidden[0] if forbidden else (None, None)
    return AlignmentError.at(
        first, second, f"the models compute the same operations{under}", remedy
    )
