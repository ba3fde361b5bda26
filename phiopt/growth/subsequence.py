"""The longest common subsequence of two computations, for students whose extra layers have no telling names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from phiopt.growth.catalogue import facts
from phiopt.growth.graph import Node, Trace
from phiopt.growth.optional import acts, canonical, kind, paired

Step = tuple[Node | None, Node | None]
"""(the teacher's node, the student's node). ``None`` stands for an operation that one model lacks."""

_NEVER = float("-inf")


def subsequence(
    teacher: Trace,
    student: Trace,
    allowed: Callable[[Node, Node], bool],
    likely: Callable[[str], str],
) -> list[Step] | None:
    """Pair as many operations in order as possible.

    Operations match if they have the same name and ``allowed`` agrees. The last operation of one model matches only the
    last of the other. Operations on parameters alone follow the operation that uses them. Two kinds of the teacher's
    operations may stay unmatched: sums, since a residual connection may exist only where widths are equal, and
    operations by which a parameter adds or multiplies.

    Args:
        teacher: The teacher's computation.
        student: The student's.
        allowed: Whether a node of the teacher may be paired with a node of the student.
        likely: The best guess of the student's module for a module of the teacher.

    Returns:
        The steps, or ``None`` if an operation of the teacher has no counterpart.
    """
    likeness = _Likeness(teacher, student, allowed, likely)
    sides = _Side.of(teacher), _Side.of(student)
    ts, ss = sides[0].nodes, sides[1].nodes
    best = [[0.0] * (len(ss) + 1) for _ in range(len(ts) + 1)]
    for i in range(len(ts) - 1, -1, -1):
        row, below, cost = best[i], best[i + 1], _omission(ts[i], sides[0])
        row[-1] = below[-1] - cost
        for j in range(len(ss) - 1, -1, -1):
            row[j] = max(below[j + 1] + likeness(ts[i], ss[j]), below[j] - cost, row[j + 1])
    if best[0][0] == _NEVER:
        return None
    steps: list[Step] = []
    i = j = 0
    while i < len(ts) or j < len(ss):
        if i < len(ts) and best[i][j] == best[i + 1][j] - _omission(ts[i], sides[0]):
            steps.append((ts[i], None))
            i += 1
        elif i < len(ts) and best[i][j] == best[i + 1][j + 1] + likeness(ts[i], ss[j]):
            steps += [*_parameters(*sides, ts[i], ss[j]), (ts[i], ss[j])]
            i, j = i + 1, j + 1
        else:
            steps.append((None, ss[j]))
            j += 1
    return steps


def _omission(node: Node, side: _Side) -> float:
    """The cost of leaving out an operation of the teacher: finite for a sum, and where a parameter acts."""
    by_parameter = acts(node) and any(v.id not in side.data for v in node.inputs)
    return 0.5 if facts(node.name).branches or by_parameter else -_NEVER


class _Likeness:
    """How well two operations match. Likely modules, no shrinking, and parameters as the same arguments break ties."""

    def __init__(
        self,
        teacher: Trace,
        student: Trace,
        allowed: Callable[[Node, Node], bool],
        likely: Callable[[str], str],
    ) -> None:
        self._allowed, self._likely = allowed, likely
        self._last = {o.id for o in teacher.outputs}, {o.id for o in student.outputs}
        self._data = _Side.of(teacher).data, _Side.of(student).data

    def __call__(self, t: Node, s: Node) -> float:
        last = [
            any(o.id in ids for o in n.outputs) for n, ids in zip((t, s), self._last, strict=True)
        ]
        if kind(t) != kind(s) or last[0] != last[1]:
            return _NEVER
        if not self._allowed(t, s):
            return _NEVER
        shrinks = any(
            len(a.shape) != len(b.shape)
            or any(x > y for x, y in zip(a.shape, b.shape, strict=True))
            for a, b in zip(t.outputs, s.outputs, strict=False)
        )
        reads = [
            [v.id in data for v in n.inputs] for n, data in zip((t, s), self._data, strict=True)
        ]
        shrinks |= acts(t) and reads[0] != reads[1]
        return 1.0 + 0.001 * (self._likely(t.module) == s.module) - 0.5 * shrinks


@dataclass(frozen=True)
class _Side:
    """A computation: its operations on data, the ids of the data, and the operation that makes each value."""

    nodes: list[Node]
    data: set[int]
    producers: dict[int, Node]

    @classmethod
    def of(cls, trace: Trace) -> _Side:
        data = {v.id for v in trace.inputs}
        nodes = []
        for node in trace.nodes:
            if any(v.id in data for v in node.inputs):
                data.update(o.id for o in node.outputs)
                nodes.append(node)
        return cls(nodes, data, {o.id: n for n in trace.nodes for o in n.outputs})


def _parameters(teacher: _Side, student: _Side, t: Node, s: Node) -> Iterator[Step]:
    """The pairs of operations that lead from parameters to two matched operations, in order."""
    for a, b in paired(canonical(t), canonical(s)):
        if a.id in teacher.data or b.id in student.data:
            continue
        old, new = teacher.producers.get(a.id), student.producers.get(b.id)
        if old is not None and new is not None and old.name == new.name:
            yield from _parameters(teacher, student, old, new)
            yield old, new
