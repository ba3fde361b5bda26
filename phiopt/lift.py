"""ψ: how an input of the teacher becomes an input of the student (paper, section 4, D1*).

A lift is any callable on a batch. The lifts of this module also say *where* they put the teacher's coordinates. The
growth map needs this for the columns of a linear layer behind ``flatten``. Any other callable is applied to probes. If
it mixes coordinates, the teacher's are taken to be the first on each axis, and the map's ``inexact_reasons`` say so.

A lift with parameters to learn is an ``nn.Module``. With methods ``shape`` and ``index_maps`` it says where it puts the
teacher's coordinates, and can be part of a `Compose`. It runs in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from phiopt._checks import count, one_of, shown, within

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


@dataclass(frozen=True)
class Identity:
    """ψ(x) = x: the student reads what the teacher reads."""

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def shape(self, shape: Shape) -> Shape:
        return shape

    def index_maps(self, shape: Shape) -> tuple[NDArray[np.int64], ...]:
        return tuple(np.arange(n) for n in shape)


@dataclass(frozen=True)
class Pad:
    """Embed the input in a larger one of constant ``value``.

    Args:
        size: New sizes of the last axes: ``(n,)`` features, ``(height, width)`` pixels.
        align: ``"start"`` puts the input first on each axis, which keeps strided feature grids aligned.
            ``"center"`` puts it in the middle.
        value: The value of the new coordinates.

    Examples:
        >>> Pad((4,))(torch.ones(1, 3))
        tensor([[1., 1., 1., 0.]])
    """

    size: tuple[int, ...]
    align: Literal["start", "center"] = "start"
    value: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _sizes("size", self.size))
        one_of("align", self.align, ("start", "center"))
        within("value", self.value, -inf, inf)

    def __call__(self, x: Tensor) -> Tensor:
        margins: list[int] = []
        for low, high in reversed(self._margins(tuple(x.shape[1:]))):
            margins += [low, high]
        return F.pad(x, margins, value=self.value)

    def shape(self, shape: Shape) -> Shape:
        self._margins(shape)
        return (*shape[: len(shape) - len(self.size)], *self.size)

    def index_maps(self, shape: Shape) -> tuple[NDArray[np.int64], ...]:
        lead = tuple(np.arange(n) for n in shape[: len(shape) - len(self.size)])
        tail = shape[len(lead) :]
        return lead + tuple(
            low + np.arange(n) for (low, _), n in zip(self._margins(shape), tail, strict=True)
        )

    def _margins(self, shape: Shape) -> list[tuple[int, int]]:
        old = shape[len(shape) - len(self.size) :]
        if len(shape) < len(self.size) or any(n < o for n, o in zip(self.size, old, strict=True)):
            raise ValueError(
                f"size={self.size} is smaller than the input, an example of shape {shape}"
            )
        low = [
            (n - o) // 2 if self.align == "center" else 0
            for n, o in zip(self.size, old, strict=True)
        ]
        return [(a, n - o - a) for a, n, o in zip(low, self.size, old, strict=True)]


@dataclass(frozen=True)
class Channels:
    """Give images (or sequences) more channels, axis 1 of the batch.

    Args:
        channels: Number of channels afterwards.
        mode: ``"repeat"``: ψ(x) = (x, x, ...), the teacher's channels in turn. ``"place"``: the teacher's channels
            from ``at`` on, zeros in the others.
        at: First channel of the input in mode ``"place"``.

    Examples:
        >>> Channels(3)(torch.ones(1, 1, 2, 2)).shape
        torch.Size([1, 3, 2, 2])
    """

    channels: int
    mode: Literal["repeat", "place"] = "repeat"
    at: int = 0

    def __post_init__(self) -> None:
        count("channels", self.channels)
        one_of("mode", self.mode, ("repeat", "place"))
        if count("at", self.at, least=0) and self.mode == "repeat":
            raise ValueError(f"at: got {self.at}, must be 0 in mode 'repeat'")

    def __call__(self, x: Tensor) -> Tensor:
        self._check(tuple(x.shape[1:]))
        if self.mode == "repeat":
            return x.repeat(1, -(-self.channels // x.shape[1]), *([1] * (x.ndim - 2)))[
                :, : self.channels
            ]
        out = x.new_zeros(x.shape[0], self.channels, *x.shape[2:])
        out[:, self.at : self.at + x.shape[1]] = x
        return out

    def shape(self, shape: Shape) -> Shape:
        self._check(shape)
        return (self.channels, *shape[1:])

    def index_maps(self, shape: Shape) -> tuple[NDArray[np.int64], ...]:
        self._check(shape)
        return (self.at + np.arange(shape[0]), *(np.arange(n) for n in shape[1:]))

    def _check(self, shape: Shape) -> None:
        if self.at + shape[0] > self.channels:
            raise ValueError(
                f"channels={self.channels} (at={self.at}) cannot hold an example of {shape[0]} channels"
            )


@dataclass(frozen=True)
class Resize:
    """Interpolate the last axes to a larger ``size``. The nearest point of the new grid stands for the teacher's.

    Args:
        size: New sizes of the last one, two or three axes.
        mode: The mode of `torch.nn.functional.interpolate`. ``"linear"`` is its linear, bilinear or trilinear one.
    """

    size: tuple[int, ...]
    mode: Literal["linear", "nearest", "bicubic"] = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _sizes("size", self.size))
        one_of("mode", self.mode, ("linear", "nearest", "bicubic"))

    def __call__(self, x: Tensor) -> Tensor:
        self.shape(tuple(x.shape[1:]))
        if self.mode == "nearest":
            return F.interpolate(x, self.size, mode="nearest")
        linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(self.size)]
        mode = linear if self.mode == "linear" else self.mode
        return F.interpolate(x, self.size, mode=mode, align_corners=False)

    def shape(self, shape: Shape) -> Shape:
        old = shape[1:]
        if len(old) != len(self.size) or any(n < o for n, o in zip(self.size, old, strict=True)):
            raise ValueError(
                f"size={self.size} must give each axis after the channels of an example of shape {shape} a size "
                "at least its own"
            )
        return (*shape[:1], *self.size)

    def index_maps(self, shape: Shape) -> tuple[NDArray[np.int64], ...]:
        self.shape(shape)
        return (
            np.arange(shape[0]),
            *(nearest_indices(o, n) for o, n in zip(shape[1:], self.size, strict=True)),
        )


class Compose(nn.Module):
    """Apply lifts in turn: ``Compose(Channels(3), Pad((32, 32)))`` turns 1x28x28 images into 3x32x32 ones."""

    def __init__(self, *lifts: PlacedLift) -> None:
        super().__init__()
        if not lifts:
            raise ValueError("lifts: got none, must be at least one; Identity() changes nothing")
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


def infer(teacher: Shape, student: Shape) -> PlacedLift:
    """The lift between examples of these shapes, if they leave a single natural choice.

    Equal shapes: the identity. Feature vectors: padded with zeros. One channel to several: repeated.

    Args:
        teacher: Shape of one of the teacher's examples, without the batch.
        student: The student's.

    Raises:
        ValueError: There is no choice, or there are several; the message lists them.
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
    if size == teacher[1:] and teacher[0] == 1:
        return Channels(channels)
    colours = (
        []
        if channels == teacher[0]
        else [f"Channels({channels})", f"Channels({channels}, mode='place')"]
    )
    spatial = (
        []
        if size == teacher[1:]
        else [f"Pad({size})", f"Pad({size}, align='center')", f"Resize({size})"]
    )
    both = [f"Compose({c}, {s})" for c in colours for s in spatial]
    choices = both or colours or spatial
    raise ValueError(
        f"lift=None leaves a choice: {lists}. Pass one of phiopt.lift: {'; '.join(choices)}; or any callable on a batch"
    )


def _shape(name: str, shape: object) -> Shape:
    if not isinstance(shape, tuple | list):
        raise TypeError(f"{name}: got {shown(shape)}, must be a shape, a tuple of whole numbers")
    return tuple(count(name, n, least=0) for n in shape)


def nearest_indices(old: int, new: int) -> NDArray[np.int64]:
    """The nearest of ``new`` grid points to each of ``old <= new`` points over the same interval, shape ``(old,)``."""
    return np.floor((np.arange(old) + 0.5) * new / old).astype(np.int64)


def _sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """Check that sizes are whole numbers of at least 1."""
    if not isinstance(sizes, tuple | list) or not sizes:
        kind = ValueError if isinstance(sizes, tuple | list | int) else TypeError
        raise kind(
            f"{name}: got {shown(sizes)}, must be a tuple of whole numbers, one for each of the last axes"
        )
    return tuple(count(name, n) for n in sizes)
