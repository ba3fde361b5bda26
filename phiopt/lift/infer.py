"""The default lift."""

from __future__ import annotations

from phiopt._checks import count
from phiopt._shown import shown
from phiopt.lift.compose import Compose
from phiopt.lift.lifts import Channels, Identity, Pad, Resize
from phiopt.lift.protocol import PlacedLift, Shape


def infer(teacher: Shape, student: Shape) -> PlacedLift:
    """The default lift between examples of these shapes.

    Equal shapes: the identity. Feature vectors: padded with zeros. One channel to several: repeated. Several channels
    to more: the teacher's first, zeros in the others. Images, channels and two axes, to larger ones: resized.

    Args:
        teacher: Shape of one of the teacher's examples, without the batch.
        student: The student's.

    Raises:
        ValueError: There is no default; the message lists the choices.
    """
    teacher, student = _shape("teacher", teacher), _shape("student", student)
    if teacher == student:
        return Identity()
    lists = f"the teacher reads examples of shape {teacher}, the student of shape {student}"
    if len(teacher) != len(student) or any(n < o for o, n in zip(teacher, student, strict=False)):
        raise ValueError(
            f"lift=None cannot be inferred: {lists}; pass lift=, a callable from the first to the second"
        )
    if len(teacher) == 1:
        return Pad(student)
    channels, size = student[0], student[1:]
    parts: list[PlacedLift] = []
    if channels != teacher[0]:
        parts.append(Channels(channels) if teacher[0] == 1 else Channels(channels, "place"))
    if size != teacher[1:]:
        if len(size) != 2:
            choices = f"Pad({size}); Pad({size}, align='center'); Resize({size})"
            raise ValueError(
                f"lift=None leaves a choice: {lists}. Pass one of phiopt.lift: {choices}; or any callable on a batch"
            )
        parts.append(Resize(size))
    return parts[0] if len(parts) == 1 else Compose(*parts)


def _shape(name: str, shape: object) -> Shape:
    if not isinstance(shape, tuple | list):
        raise TypeError(f"{name}: got {shown(shape)}, must be a shape, a tuple of whole numbers")
    return tuple(count(name, n, least=0) for n in shape)
