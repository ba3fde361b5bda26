"""Pair the operations of the teacher with those of the student, node by node."""

from __future__ import annotations

from collections.abc import Iterator

from phiopt.growth.errors import AlignmentError
from phiopt.growth.graph import Node, Trace
from phiopt.growth.named import Named
from phiopt.growth.optional import kind
from phiopt.growth.subsequence import Step, subsequence


def align(teacher: Trace, student: Trace, named: Named) -> Iterator[list[Step]]:
    """Ways to pair the two computations, the most literal first.

    Networks of equal depth record the same operations. If the student is deeper, the operations of modules that the
    teacher lacks are new. If this does not pair all of the teacher's, the longest common subsequence decides.

    Args:
        teacher: The teacher's computation.
        student: The student's.
        named: Modules that belong together, if names alone mislead. A student's module beside a named one is new if it
            has no name itself, unless the teacher has others that must sit there.

    Raises:
        AlignmentError: An operation of the teacher has no counterpart, or ``named`` contradicts the computations.
    """
    named.check_order(teacher, student)
    ways = 0
    for steps in _ways(teacher, student, named):
        if all(t is None or s is None or named.allows(t, s) for t, s in steps):
            ways += 1
            yield steps
    if not ways:
        raise _refusal(teacher.nodes, student.nodes, named)


def _ways(teacher: Trace, student: Trace, named: Named) -> Iterator[list[Step]]:
    if _names(teacher.nodes) == _names(student.nodes):
        yield list(zip(teacher.nodes, student.nodes, strict=True))
        if not named:
            return
    shared = _shared_nodes(teacher, student, named)
    if _names(shared) == _names(teacher.nodes):
        partner = dict(zip(map(id, shared), teacher.nodes, strict=True))
        yield [(partner.get(id(n)), n) for n in student.nodes]
    if named:
        kept = {id(n) for n in shared}
        steps = subsequence(
            teacher,
            student,
            lambda t, s: id(s) in kept and (named.renamed(t.module) or t.module) == s.module,
            named.likely,
        )
        if steps is not None:
            yield steps
    steps = subsequence(teacher, student, named.allows, named.likely)
    if steps is None:
        raise _refusal(teacher.nodes, student.nodes, named)
    yield steps


def _names(nodes: list[Node]) -> list[str]:
    return [kind(n) for n in nodes]


def _shared_nodes(teacher: Trace, student: Trace, named: Named) -> list[Node]:
    """The student's nodes in modules that the teacher has too."""
    known = {
        "",
        *(_above(n.module, i) for n in teacher.nodes for i in range(n.module.count(".") + 1)),
    }
    beside = {new.rpartition(".")[0] for new in named.pairs.values()}

    def shared(module: str) -> bool:
        if not module:
            return True
        original = named.original(module)
        if original is not None:  # below a named module, the teacher's own names count
            return original in known
        parts = module.split(".")
        return module in known and not any(".".join(parts[:i]) in beside for i in range(len(parts)))

    return [n for n in student.nodes if shared(n.module)]


def _above(module: str, levels: int) -> str:
    parts = module.split(".")
    return ".".join(parts[: len(parts) - levels])


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
