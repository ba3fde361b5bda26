"""The error of two models that do not match, and where each of them stands in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from phiopt.growth.graph import Node

Shape = tuple[int, ...]
REMEDY = (
    "Build the two modules alike, or say with correspondence= which modules belong together, "
    "teacher's to student's"
)
"""What settles a disagreement about which nothing more is known."""


@dataclass(frozen=True)
class Side:
    """Where one of the two models stands in a disagreement.

    Attributes:
        module: Path of the module; ``""`` is the root module, ``None`` is an unknown one.
        shapes: What the operation makes, or the shape of the parameter in question.
        node: The operation: its ``name``, ``arguments``, ``inputs`` and ``outputs``; ``None`` where none is known.
    """

    module: str | None = None
    shapes: tuple[Shape, ...] = ()
    node: Node | None = None

    @classmethod
    def of(cls, node: Node | None) -> Side:
        """The side of an operation."""
        if node is None:
            return UNKNOWN
        return cls(node.module, tuple(o.shape for o in node.outputs), node)

    @classmethod
    def of_tensor(cls, name: str, *shapes: Shape) -> Side:
        """The side of a parameter or buffer."""
        return cls(name.rpartition(".")[0], shapes)

    def __str__(self) -> str:
        module = repr(self.module) if self.module else "the root module"
        if self.node is None:
            return module
        return f"{self.node.name} -> {', '.join(str(list(s)) for s in self.shapes)} in {module}"


UNKNOWN = Side()


class AlignmentError(ValueError):
    """Teacher and student compute different things, or the student cannot hold the teacher.

    The message names the first operation at which they differ, with its module in each model, and what settles it.

    Attributes:
        problem: What is wrong, a sentence without its end.
        remedy: What settles it, likewise.
        teacher: Where the teacher stands: ``error.teacher.module``, ``.shapes`` and ``.node``. A part that does not
            exist, such as the node of an operation that only the student has, is ``None`` or empty.
        student: The same of the student.
        alternatives: The other ways to pair the operations that were tried, each as the error that it ended in.
    """

    def __init__(
        self,
        problem: str,
        remedy: str = "",
        *,
        teacher: Side = UNKNOWN,
        student: Side = UNKNOWN,
        alternatives: Iterable[AlignmentError] = (),
    ) -> None:
        super().__init__(f"{problem}. {remedy}" if remedy else problem)
        self.problem, self.remedy = problem, remedy
        self.teacher, self.student = teacher, student
        self.alternatives = tuple(alternatives)

    @classmethod
    def at(
        cls, teacher: Node | None, student: Node | None, problem: str, remedy: str = ""
    ) -> AlignmentError:
        """The error of two operations that cannot be the same, or of one that has no counterpart."""
        sides = Side.of(teacher), Side.of(student)
        places = " and ".join(
            f"{side} of the {role}"
            for side, role in zip(sides, ("teacher", "student"), strict=True)
            if side.node is not None
        )
        where = f" at {places}" if places else ""
        return cls(
            f"Teacher and student compute different things{where}: {problem}",
            remedy or REMEDY,
            teacher=sides[0],
            student=sides[1],
        )
