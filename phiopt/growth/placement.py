"""Where one teacher tensor sits in one student tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Index = tuple[slice, ...] | tuple[Tensor, ...]


@dataclass(frozen=True)
class Placement:
    """Which coordinates of a student tensor hold one teacher tensor, axis by axis.

    Attributes:
        student: The student tensor's name.
        shape: Its shape.
        index_maps: For each axis, the student's coordinate of each of the teacher's; shape ``(teacher's size,)``.
        input_axes: The axes that are summed over, which read units. The other axes are output axes and make units.
    """

    student: str
    shape: tuple[int, ...]
    index_maps: tuple[Tensor, ...]
    input_axes: frozenset[int] = frozenset()
    _index: Index = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", _index(self.index_maps))

    @property
    def teacher_shape(self) -> tuple[int, ...]:
        return tuple(len(p) for p in self.index_maps)

    def index(self, device: torch.device | None = None) -> Index:
        """An index of the student's tensor that picks the teacher's block."""
        return tuple(  # type: ignore[return-value]
            i if isinstance(i, slice) else i.to(device) for i in self._index
        )


def _index(index_maps: Sequence[Tensor]) -> Index:
    """Slices if the coordinates of every axis are a run; else an open mesh of index tensors."""
    if all(
        len(p) == 0 or bool((p == p[0] + torch.arange(len(p), device="cpu")).all())
        for p in index_maps
    ):
        return tuple(
            slice(int(p[0]), int(p[0]) + len(p)) if len(p) else slice(0, 0) for p in index_maps
        )
    rank = len(index_maps)
    return tuple(
        p.reshape([-1 if d == i else 1 for d in range(rank)]) for i, p in enumerate(index_maps)
    )
