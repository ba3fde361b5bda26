"""Where ψ puts the teacher's coordinates and tokens. A lift that does not say so is applied to probes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from phiopt import lift as lifts
from phiopt._inputs import Inputs, main_of, with_main
from phiopt._shown import shown
from phiopt._types import Lift
from phiopt.growth.axes import Indices, Size
from phiopt.growth.example import REFUSALS, accepted, recorded
from phiopt.growth.graph import Trace, Value
from phiopt.growth.probed import applied, separate, sources_of
from phiopt.growth.replay import replayed

_log = logging.getLogger("phiopt")
_CHUNK = 2**20
"""Largest number of tokens in one call of ψ."""
_REFUSED = (LookupError, RuntimeError)
"""What a lift raises at a token that it does not know."""
_COLUMNS, _TOKENS = 64, 256
"""Largest numbers of columns, and of tokens that only some columns take, that are probed one by one."""


def lifted(student: nn.Module, inputs: Inputs, lift: Lift | None) -> tuple[Lift, Tensor, Trace]:
    """ψ, inferred if it is not given, what it makes of the example, or of the main one of several inputs, and the
    student's trace on it.
    """
    example = main_of(inputs)
    if lift is None:
        made, large = accepted(student, inputs, "student")
        lift = lifts.infer(tuple(example.shape[1:]), tuple(made.shape[1:]))
        if not isinstance(lift, lifts.Identity):
            _log.info("lift: none given, %r is taken", lift)
        return lift, made, large
    if not callable(lift):
        raise TypeError(
            f"lift: got {shown(lift)}, must be callable on a batch of the teacher's inputs"
        )
    made = lift(example)
    if (
        not isinstance(made, Tensor)
        or made.ndim != example.ndim
        or made.shape[0] != example.shape[0]
    ):
        shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(
            f"lift={shown(lift)} makes {shape} of a batch {tuple(example.shape)}; it must keep batch and rank"
        )
    return lift, made, recorded(student, with_main(inputs, made), "student")


def between_declared_sizes(
    teacher: nn.Module, student: nn.Module, example: Tensor
) -> lifts.Resize | None:
    """The resize from the images that the teacher is made for to those of the student, if modules of both say which.

    It is for models that take images of any size, because they resample their tables of positions in the forward pass.
    """
    old, new = (
        next((size for part in model.modules() if (size := _declared_size(part))), None)
        for model in (teacher, student)
    )
    if example.ndim != 4 or old is None or new is None or old != tuple(example.shape[2:]):
        return None
    return lifts.Resize(new) if old != new and old[0] <= new[0] and old[1] <= new[1] else None


def _declared_size(module: nn.Module) -> tuple[int, int] | None:
    """Height and width of the images that a module says it is made for, as patch embeddings do."""
    for name in ("img_size", "image_size"):
        size = getattr(module, name, None)
        height, width = size if isinstance(size, tuple | list) and len(size) == 2 else (size, size)
        if isinstance(height, int) and isinstance(width, int):
            return height, width
    return None


@dataclass(frozen=True)
class Moves:
    """Where ψ puts the teacher's inputs.

    Attributes:
        lift: ψ.
        example: A batch of the teacher's inputs.
        index_maps: For each axis but the batch, the student's coordinate of each of the teacher's.
        size: Shape of one lifted example.
        reason: Why ψ cannot be followed. The teacher's coordinates are then taken to be the first on each axis.
    """

    lift: Lift
    example: Tensor
    index_maps: tuple[Indices, ...]
    size: tuple[int, ...]
    reason: str | None = None

    @classmethod
    def of(cls, lift: Lift, example: Tensor, made: Tensor) -> Moves:
        """Ask a lift that has index maps for them, and probe any other callable."""
        shape, size = tuple(example.shape[1:]), tuple(made.shape[1:])
        first = tuple(np.arange(n) for n in shape)
        if isinstance(lift, lifts.PlacedLift):
            return cls(lift, example, lift.index_maps(shape), size)
        try:
            sources, kept = sources_of(lift, example)
        except REFUSALS:
            return cls(lift, example, first, size, "lift fails on other inputs of the same shape")
        index_maps, reason = separate(sources, shape, size)
        if index_maps is None:
            return cls(lift, example, first, size, reason)
        changed = None if kept else "lift changes the values of the coordinates that it places"
        return cls(lift, example, index_maps, size, changed)

    @property
    def parts(self) -> tuple[Lift, ...]:
        """The lifts that ψ applies in turn."""
        return self.lift.lifts if isinstance(self.lift, lifts.Compose) else (self.lift,)

    @property
    def keeps_tokens(self) -> bool:
        """Whether ψ is made of those lifts of `phiopt.lift` that change no value."""
        return all(
            isinstance(p, lifts.Identity | lifts.Pad | lifts.Channels | lifts.Resize)
            for p in self.parts
        )

    @property
    def resizes(self) -> bool:
        """Whether ψ resizes images."""
        return any(isinstance(part, lifts.Resize) for part in self.parts)

    @property
    def keeps_values(self) -> bool:
        """Whether ψ, in resizing images, only repeats values."""
        return all(p.mode == "nearest" for p in self.parts if isinstance(p, lifts.Resize))

    def classes(self, size: Size) -> Indices:
        """The student's class of each of the teacher's by default: the first ones, or ψ's tokens if there is a class
        for each token.
        """
        for part in self.parts:
            if (
                isinstance(part, lifts.Tokens)
                and len(part.ids) == size[0]
                and max(part.ids) < size[1]
            ):
                return np.array(part.ids)
        return np.arange(size[0])

    def rows(self, traces: tuple[Trace, Trace], at: tuple[Value, Value], size: Size) -> Rows:
        """The student's row of each of the teacher's rows of a table.

        Args:
            traces: Both computations.
            at: The values with which they look up the table.
            size: Numbers of rows.
        """
        rows = np.full(size[0], -1, dtype=np.int64)
        try:
            for old, new in self._looked_up(traces, at, size[0], rows):
                known = (old >= 0) & (old < size[0])
                pairs = np.unique(np.stack([old[known], new[known]]), axis=1)
                before = rows[pairs[0]]
                again = (before >= 0) & (before != pairs[1])
                if again.any() or len(np.unique(pairs[0])) < pairs.shape[1]:
                    return Rows(rows, "one row goes to several")
                rows[pairs[0]] = pairs[1]
        except REFUSALS as error:
            return Rows(rows, f"what is looked up is unknown: {error}")
        seen = rows[rows != -1]
        if not len(seen):
            return Rows(rows, "lift takes none of the tokens tried")
        if ((seen >= size[1]) | (seen < 0)).any():
            return Rows(rows, f"a row goes to {int(seen.max())} of a table of {size[1]}")
        if len(np.unique(seen)) < len(seen):
            return Rows(rows, "several rows go to one")
        return Rows(rows)

    def _looked_up(
        self, traces: tuple[Trace, Trace], at: tuple[Value, Value], count: int, rows: Indices
    ) -> Iterator[tuple[Indices, Indices]]:
        """The rows that both models look up when the teacher reads each token.

        A token fills a whole example. If ψ takes it in some columns only, so that ``rows`` lacks it, it stands in one
        column beside zeros.
        """
        whole = at == (traces[0].inputs[0], traces[1].inputs[0])
        shape = self.example.shape[1:]
        many = max(_CHUNK // max(self.example[0].numel(), 1), 1) if whole else len(self.example)
        todo = [np.arange(i, min(i + many, count)) for i in range(0, count, many)][::-1]
        while todo:
            tokens = todo.pop()
            values = torch.from_numpy(np.resize(tokens, len(tokens) if whole else many))
            x = values.to(self.example.dtype).reshape(-1, *[1] * len(shape)).expand(-1, *shape)
            try:
                yield self._both(x.clone(), traces, at)
            except _REFUSED:
                half = len(tokens) // 2
                todo += [tokens[half:], tokens[:half]] if half else []
        columns = np.arange(int(np.prod(shape)))[:_COLUMNS]
        for token, column in product(np.flatnonzero(rows < 0)[:_TOKENS], columns):
            x = torch.zeros_like(self.example).flatten(1)
            x[:, column] = int(token)
            with contextlib.suppress(*_REFUSED):
                yield self._both(x.reshape(-1, *shape), traces, at)

    def _both(
        self, x: Tensor, traces: tuple[Trace, Trace], at: tuple[Value, Value]
    ) -> tuple[Indices, Indices]:
        y = applied(self.lift, x)
        if at == (traces[0].inputs[0], traces[1].inputs[0]):
            for dim, index_map in enumerate(self.index_maps, start=1):
                y = y.index_select(dim, torch.from_numpy(index_map))
            return x.reshape(-1).long().numpy(), y.reshape(-1).long().numpy()
        old, new = (
            replayed(trace, value, given).reshape(-1).long().numpy()
            for trace, value, given in zip(traces, at, (x, y), strict=True)
        )
        if old.shape != new.shape:
            raise ValueError("the student looks up at more places")
        return old, new


@dataclass(frozen=True)
class Rows:
    """The student's row of each of the teacher's rows, -1 if no input leads to it; or the reason why it is unknown."""

    index_map: Indices
    reason: str | None = None

    def settled(self, size: int) -> Indices:
        """The index map with all rows placed. A row to which no input leads keeps its number if that is free."""
        index_map = self.index_map.copy()
        free = set(range(size)) - set(index_map.tolist())
        missing = np.flatnonzero(index_map < 0).tolist()
        for row in [r for r in missing if r in free]:
            index_map[row] = row
            free.remove(row)
        rest = np.flatnonzero(index_map < 0)
        index_map[rest] = sorted(free)[: len(rest)]
        return index_map
