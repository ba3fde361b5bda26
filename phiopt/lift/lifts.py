"""The library's lifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from phiopt._checks import count, one_of, within
from phiopt._shown import shown
from phiopt.lift.protocol import Shape


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
            where ``at`` says, zeros in the others.
        at: In mode ``"place"`` the first channel of the input, or one channel for each of the teacher's, in any order.

    Examples:
        >>> Channels(3)(torch.ones(1, 1, 2, 2)).shape
        torch.Size([1, 3, 2, 2])
        >>> Channels(4, "place", at=(2, 1, 0))(torch.arange(3.0)[None])  # from RGB to BGR and a fourth
        tensor([[2., 1., 0., 0.]])
    """

    channels: int
    mode: Literal["repeat", "place"] = "repeat"
    at: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        count("channels", self.channels)
        one_of("mode", self.mode, ("repeat", "place"))
        if isinstance(self.at, tuple | list):
            object.__setattr__(self, "at", _indices("at", self.at))
        else:
            count("at", self.at, least=0)
        if self.at != 0 and self.mode == "repeat":
            raise ValueError(f"at: got {self.at}, must be 0 in mode 'repeat'")

    def __call__(self, x: Tensor) -> Tensor:
        self._check(tuple(x.shape[1:]))
        if self.mode == "repeat":
            return x.repeat(1, -(-self.channels // x.shape[1]), *([1] * (x.ndim - 2)))[
                :, : self.channels
            ]
        out = x.new_zeros(x.shape[0], self.channels, *x.shape[2:])
        out[:, torch.from_numpy(self._places(x.shape[1])).to(x.device)] = x
        return out

    def shape(self, shape: Shape) -> Shape:
        self._check(shape)
        return (self.channels, *shape[1:])

    def index_maps(self, shape: Shape) -> tuple[NDArray[np.int64], ...]:
        self._check(shape)
        return (self._places(shape[0]), *(np.arange(n) for n in shape[1:]))

    def _places(self, channels: int) -> NDArray[np.int64]:
        """The channel of each of the input's."""
        return self.at + np.arange(channels) if isinstance(self.at, int) else np.array(self.at)

    def _check(self, shape: Shape) -> None:
        if not isinstance(self.at, int) and len(self.at) != shape[0]:
            raise ValueError(
                f"at={self.at} must be as many as the {shape[0]} channels of an example"
            )
        if self._places(shape[0]).max(initial=-1) >= self.channels:
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


@dataclass(frozen=True)
class Tokens:
    """Another numbering of tokens, items or other indices: ψ(t) = ids[t], as for a new tokenizer or catalogue.

    The rows of tables that the tokens look up move with them. If the teacher has one class for each token, as a
    language model has, the classes move too.

    Args:
        ids: The student's token of each of the teacher's tokens, all different; a tuple, a list or a tensor.

    Examples:
        >>> Tokens((3, 0, 1))(torch.tensor([[0, 2, 2]]))
        tensor([[3, 1, 1]])
    """

    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", _indices("ids", self.ids))

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < len(self.ids):
            raise ValueError(
                f"ids: {len(self.ids)} given, must be one for each token; "
                f"the input has tokens from {int(x.min())} to {int(x.max())}"
            )
        return torch.tensor(self.ids, dtype=x.dtype, device=x.device)[x.long()]

    def shape(self, shape: Shape) -> Shape:
        return shape

    def index_maps(self, shape: Shape) -> tuple[NDArray[np.int64], ...]:
        return tuple(np.arange(n) for n in shape)


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


def _indices(name: str, indices: Sequence[int] | Tensor) -> tuple[int, ...]:
    """Check that indices are different whole numbers of at least 0."""
    indices = indices.tolist() if isinstance(indices, Tensor) else indices
    rule = "a tuple of different whole numbers of at least 0"
    if not isinstance(indices, tuple | list) or not indices:
        kind = ValueError if isinstance(indices, tuple | list) else TypeError
        raise kind(f"{name}: got {shown(indices)}, must be {rule}")
    checked = tuple(count(name, n, least=0) for n in indices)
    if len(set(checked)) < len(checked):
        raise ValueError(f"{name}: got {shown(indices)}, must be {rule}")
    return checked
