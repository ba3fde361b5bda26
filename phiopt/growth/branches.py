"""Branches that only the student has, whose results are joined to the teacher's: new coordinates, and no layers that
must be the identity.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from phiopt.growth.axes import Mismatch
from phiopt.growth.catalogue import facts
from phiopt.growth.graph import Node, Trace, Value


class Branches:
    """Which results belong together where the student splits or joins more tensors than the teacher.

    Args:
        teacher: The teacher's computation.
        student: The student's.
        pairs: The pairs of operations, teacher's and student's.

    Attributes:
        modules: The student's modules of which some operation is paired.
        new: The student's operations, by id, whose results are joined as new coordinates and read nowhere else.
    """

    def __init__(self, teacher: Trace, student: Trace, pairs: Iterable[tuple[Node, Node]]) -> None:
        self._teacher, self._student = teacher, student
        listed = list(pairs)
        self._counterparts = {id(t): s for t, s in listed}
        self._paired = {id(s) for _, s in listed}
        self.modules = {s.module for _, s in listed}
        joined = {id(s): self._joined(t, s) for t, s in listed if facts(t.name).joins}
        self.new: set[int] = set()
        for node in reversed(student.nodes):
            uses = [(id(n), o.id) for o in node.outputs for n in student.readers[o.id]]
            only_new = all(n in self.new or o in joined.get(n, ()) for n, o in uses)
            if uses and only_new and id(node) not in self._paired:
                self.new.add(id(node))

    def _joined(self, teacher: Node, student: Node) -> set[int]:
        """The ids of the tensors that only the student joins, if it is certain which they are."""
        given, makers = student.arguments["tensors"], self._student.producers
        alone = {v.id for v in given if v.id in makers and id(makers[v.id]) not in self._paired}
        return alone if len(alone) == len(given) - len(teacher.arguments["tensors"]) else set()

    def outputs_for(self, teacher: Node, student: Node) -> list[int]:
        """The number of the student's output for each of the teacher's, of an operation with more of them.

        What reads an output tells which it is.

        Raises:
            Mismatch: That does not settle it.
        """
        count, more = len(teacher.outputs), len(student.outputs)
        if count == more:
            return list(range(count))
        numbers: list[int] = []
        for value in teacher.outputs:
            after = numbers[-1] + 1 if numbers else 0
            known = self._number(value, student)
            numbers.append(after if known is None else known)
        if numbers != sorted(set(numbers)) or numbers[-1] >= more:
            raise Mismatch(
                f"{count} pieces in the teacher but {more} in the student, and what reads them does not tell which "
                "belong together",
                "Give both models as many",
            )
        return numbers

    def _number(self, value: Value, student: Node) -> int | None:
        for reader in self._teacher.readers[value.id]:
            other = self._counterparts.get(id(reader))
            for name, argument in reader.arguments.items() if other is not None else ():
                assert other is not None
                given = _in_place_of(value, argument, other.arguments.get(name))
                if given in student.outputs:
                    return student.outputs.index(given)
        return None


def _in_place_of(value: Value, argument: Any, given: Any) -> Any:
    """What is given in the place of ``value``; of a list that is longer, counted from its end."""
    if isinstance(argument, list) and isinstance(given, list) and value in argument:
        behind = argument[::-1].index(value)
        return given[::-1][behind] if behind < len(given) else None
    return given if argument == value else None
