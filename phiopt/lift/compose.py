"""Lifts in turn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from phiopt._shown import shown
from phiopt.lift.protocol import PlacedLift, Shape


class Compose(nn.Module):
    """Apply lifts in turn: ``Compose(Channels(3), Pad((32, 32)))`` turns 1x28x28 images into 3x32x32 ones."""

    def __init__(self, *lifts: PlacedLift) -> None:
        super().__init__()
        if not lifts:
            raise ValueError("lifts: got none, must be at least one; Identity() changes nothing")
        first = lifts[0]
        if len(lifts) == 1 and isinstance(first, tuple | list):
            texts = ", ".join(map(str, first)) or "Identity()"
            raise TypeError(
                f"lifts: got a {type(first).__name__} of lifts, must be lifts as arguments of their own: "
                f"Compose({texts})"
            )
        for i, lift in enumerate(lifts):
            if isinstance(lift, type) or not isinstance(lift, PlacedLift):
                raise TypeError(
                    f"lifts[{i}]: got {shown(lift)}, which has no shape() and index_maps(), must be a lift "
                    "of its place; pass a plain callable as lift= itself"
                )
            if isinstance(lift, nn.Module):
                self.add_module(str(i), lift)
        self.lifts = lifts

    def forward(self, x: Tensor) -> Tensor:
        for lift in self.lifts:
            x = lift(x)
        return x

    def shape(self, shape: Shape) -> Shape:
        for lift in self.lifts:
            shape = lift.shape(shape)
        return shape

    def index_maps(self, shape: Shape) -> tuple[NDArray[np.int64], ...]:
        total = tuple(np.arange(n) for n in shape)
        for lift in self.lifts:
            total = tuple(p[t] for p, t in zip(lift.index_maps(shape), total, strict=True))
            shape = lift.shape(shape)
        return total

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.lifts))})"
