"""What a lift says of itself."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Shape = tuple[int, ...]


@runtime_checkable
class PlacedLift(Protocol):
    """A lift that says where it puts the teacher's coordinates. Shapes are of one example, without the batch axis."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def shape(self, shape: Shape) -> Shape:
        """Shape of one lifted example."""
        ...

    def index_maps(self, shape: Shape) -> tuple[NDArray[np.int64], ...]:
        """For each axis, the student's coordinate of each of the teacher's, for an example of this ``shape``."""
        ...
