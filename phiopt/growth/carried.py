"""Values of the student that are another value with its coordinates in other places, as windows of an image are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from phiopt.growth.graph import Node, Value
from phiopt.growth.replay import called


@dataclass(frozen=True, eq=False)
class Carried:
    """A value that has the coordinates of ``source``.

    Attributes:
        source: The value whose coordinates they are.
        numbers: The number of each coordinate's place in the source, from 1 on; 0 for padding. ``None``: it is the
            source, coordinate by coordinate.
    """

    source: Value
    numbers: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape if self.numbers is None else tuple(self.numbers.shape)

    def numbered(self) -> Tensor:
        """``numbers``, for the source itself too."""
        if self.numbers is not None:
            return self.numbers.contiguous()  # copies are not recorded
        return _in_order(self.source.shape)


def moved(
    node: Node, carried: Callable[[Value], Carried | None], constants: Mapping[int, Tensor]
) -> list[Carried]:
    """What an operation that only moves coordinates makes; empty if its tensors come from several values."""
    known = {v.id: c for v in node.inputs if (c := carried(v)) is not None}
    source = next((c.source for c in known.values()), None)
    same = all(
        known[v.id].source == source if v.id in known else v.id in constants for v in node.inputs
    )
    padded = bool(node.arguments.get("value"))  # with another number than 0
    if source is None or not same or padded:
        return []
    made = called(
        node,
        {v.id: known[v.id].numbered() if v.id in known else constants[v.id] for v in node.inputs},
    )
    return [
        Carried(source, None if _is_in_order(numbers, source.shape) else numbers)
        for numbers in made
    ]


def _in_order(shape: tuple[int, ...]) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.arange(1, count + 1, dtype=torch.int32, device="cpu").reshape(shape)


def _is_in_order(numbers: Tensor, shape: tuple[int, ...]) -> bool:
    return tuple(numbers.shape) == shape and torch.equal(numbers, _in_order(shape))
