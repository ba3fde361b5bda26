"""Compare the outputs of a teacher and a grown student, and tell a difference from rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from phiopt._inputs import Inputs, lifted, main_first, main_of, with_main
from phiopt._types import Lift
from phiopt.growth.correspond import Correspondence
from phiopt.growth.departure import Comparison, Difference, Gap, matched, on_teacher
from phiopt.growth.example import REFUSALS, steady
from phiopt.growth.forward import Forward, Outputs, on_each
from phiopt.growth.graph import Trace
from phiopt.growth.index_map import index_map
from phiopt.growth.map import GrowthMap
from phiopt.growth.options import SAME

CLOSE = 10 * SAME
"""Relative difference of float64 outputs up to which nothing is asked. Options that count as the same make no larger
one."""
ROUNDINGS = 32.0
"""Difference up to which outputs are the same, in units of what one rounding of every parameter changes."""
CHANCE = (
    "a forward pass draws random numbers or keeps a state in evaluation mode, so that two passes of the "
    "same model differ; make it deterministic there, or compare the outputs yourself"
)


class Agreement:
    """A teacher's outputs on several batches, to be compared with those of students.

    Args:
        map: Where the teacher's coordinates sit.
        teacher: The teacher. Students have its precision and its device.
        student: A student of the map's shapes. It gives the dtype and device of the inputs.
        lift: ψ, in that precision.
        batches: Batches of the teacher's inputs. A batch that ψ or a forward pass refuses proves nothing.
        seed: Seed of the forward passes' random numbers.

    Attributes:
        refused: The error of the first batch that was refused.
    """

    def __init__(
        self,
        map: GrowthMap,
        teacher: Forward,
        student: Forward,
        lift: Lift,
        batches: Sequence[Inputs],
        seed: int,
    ) -> None:
        assert map.correspondence is not None
        assert map.traced is not None
        self._state: Correspondence = map.correspondence
        self._teacher, self._lift, self._seed, self._dtype = teacher, lift, seed, map.traced[1]
        self.refused: Exception | None = None
        self._inputs: list[tuple[Inputs, Inputs]] = []
        for batch in batches:
            x = teacher.placed(batch)
            try:
                self._inputs.append((x, self._lifted(x, student)))
            except REFUSALS as error:
                self.refused = self.refused or error
        xs = [x for x, _ in self._inputs]
        self._old = on_each(teacher, xs, seed) if xs else []
        self._new: list[Outputs | Exception] = []
        self._note(self._old)

    def differing(self, student: Forward) -> list[int]:
        """The numbers of the batches on which this student's outputs are not clearly the teacher's."""
        self._new = on_each(student, [z for _, z in self._inputs], self._seed) if self._old else []
        self._note(self._new)
        close = _close(self._teacher, student)
        return [
            i
            for i, (old, new) in enumerate(zip(self._old, self._new, strict=True))
            if not (isinstance(old, Exception) or isinstance(new, Exception))
            and any(gap.relative > close for gap in self._gaps(old, new))
        ]

    def varies(self) -> bool:
        """Whether the outputs on which the last student was compared differ from input to input."""
        compared = zip(self._old, self._new, strict=True)
        return _varies(
            [
                old
                for old, new in compared
                if not (isinstance(old, Exception) or isinstance(new, Exception))
            ]
        )

    def judge(self, student: Forward, i: int) -> Difference | str | None:
        """Judge the difference on batch ``i``.

        Returns:
            ``None`` if it is rounding; a text if the batch tells nothing; else where the difference starts.
        """
        x, z = self._inputs[i]
        teacher, seed = self._teacher, self._seed
        try:
            old, new = teacher(x, seed), student(z, seed)
        except REFUSALS as error:
            self.refused = self.refused or error
            return None
        gaps = self._gaps(old, new)
        if all(gap.relative <= _close(teacher, student) for gap in gaps):
            return None
        level = max(torch.finfo(model.dtype).eps for model in (teacher, student))
        worst = self._worst(gaps, x, old, level)
        if worst == 0.0:
            return None
        if _drawing(teacher, x, seed) or _drawing(student, z, seed):
            return CHANCE
        largest = max(gaps, key=lambda gap: gap.relative)
        try:
            small, large = teacher.values(x, seed), student.values(z, seed)
        except REFUSALS:
            return Difference(largest, None)
        coarsest = max(level, self._state.rounding, _coarsest(*small), _coarsest(*large))
        if coarsest > level:
            worst = self._worst(gaps, x, old, coarsest)
        if worst == 0.0:
            return None
        values = [
            matched(planned, ran, kept, main_first(given))
            for planned, (ran, kept), given in (
                (self._state.teacher, small, x),
                (self._state.student, large, z),
            )
        ]
        if values[0] is None or values[1] is None:
            return Difference(largest, None)
        tolerance = (coarsest * min(worst, 1.0)) ** 0.5
        comparison = Comparison(self._state, values[0], values[1], tolerance)
        return Difference(largest, comparison.first())

    def _worst(self, gaps: Sequence[Gap], x: Inputs, old: Outputs, level: float) -> float:
        """The largest relative difference that is more than rounding; 0.0 if all are rounding.

        Rounding is measured: it is what the teacher's outputs change when its parameters and input move by ``level``.
        """
        noise = [0.0] * len(gaps)
        main = main_of(x)
        floor = level * float(main.abs().max()) if main.is_floating_point() else level
        generator = torch.Generator().manual_seed(self._seed)
        worst = 0.0
        for _ in range(2):
            changes = self._changes(x, old, level, generator)
            noise = [max(a, b) for a, b in zip(noise, changes, strict=False)]
            worst = 0.0
            for gap, change in zip(gaps, noise, strict=True):
                allowed = ROUNDINGS * max(change, level * gap.size)
                if (
                    gap.size <= ROUNDINGS * floor
                ):  # the teacher's output is itself no more than rounding
                    allowed = max(allowed, ROUNDINGS * floor)
                if gap.change > allowed:
                    worst = max(worst, gap.relative)
            if worst == 0.0:
                break
        return worst

    def _changes(
        self, x: Inputs, old: Outputs, level: float, generator: torch.Generator
    ) -> list[float]:
        """Largest change of each output when the parameters and, if the model takes it, the input move by ``level``."""
        u = {n: moved(v, level, generator) for n, v in self._teacher.tensors.items()}
        teacher = self._teacher.holding(u)
        try:
            new = teacher(lifted(lambda t: moved(t, level, generator), x), self._seed)
        except REFUSALS:
            new = teacher(x, self._seed)
        return [Gap.between(a, b).change for a, b in zip(old, new, strict=True)]

    def _gaps(self, old: Outputs, new: Outputs) -> list[Gap]:
        """The gap of each output at the teacher's coordinates; no gap if these coordinates are unknown."""
        nodes = zip(self._state.teacher.outputs, self._state.student.outputs, strict=False)
        pairs = [self._state.pairs.get((t.id, s.id)) for t, s in nodes]
        return [
            Gap(0.0, 0.0) if pair is None else Gap.between(a, on_teacher(b, pair))
            for a, b, pair in zip(old, new, pairs, strict=False)
        ]

    def _lifted(self, inputs: Inputs, student: Forward) -> Inputs:
        """ψ(x), with the teacher's inputs exactly at the coordinates that the map gives them."""
        x = main_of(inputs)
        try:
            z = steady("lift", lambda: self._lift(x))
        except REFUSALS:
            z = self._lift(x.to(self._dtype))
        lifted_inputs = student.placed(with_main(inputs, z))
        z = main_of(lifted_inputs)
        if not z.is_floating_point():
            return lifted_inputs
        pair = self._state.pair(self._state.teacher.inputs[0], self._state.student.inputs[0])
        index = np.ix_(*(index_map(a.term) for a in pair.axes))
        out = z.clone()
        out[index] = x.to(z)
        return with_main(lifted_inputs, out)

    def _note(self, outputs: Sequence[Outputs | Exception]) -> None:
        errors = [x for x in outputs if isinstance(x, Exception)]
        self.refused = self.refused or next(iter(errors), None)


def moved(x: Tensor, relative: float, generator: torch.Generator, absolute: float = 0.0) -> Tensor:
    """A copy with every coordinate moved at random. Whole numbers stay."""
    if not x.is_floating_point():
        return x
    a, b = torch.randn(2, *x.shape, generator=generator, dtype=torch.float64, device="cpu").to(x)
    return x * (1 + relative * a) + absolute * b


def _close(teacher: Forward, student: Forward) -> float:
    """Relative difference up to which outputs are the same in the precision of both."""
    return max(CLOSE, *(ROUNDINGS * torch.finfo(model.dtype).eps for model in (teacher, student)))


def _drawing(model: Forward, x: Inputs, seed: int) -> bool:
    """Whether two passes of one model differ."""
    passes = zip(model(x, seed), model(x, seed + 1), strict=True)
    return not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in passes)


def _coarsest(run: Trace, kept: dict[int, Tensor]) -> float:
    """Rounding of the coarsest dtype of any result."""
    values = [kept[v.id] for node in run.nodes for v in node.outputs]
    return max((torch.finfo(x.dtype).eps for x in values if x.is_floating_point()), default=0.0)


def _varies(outputs: Sequence[Outputs]) -> bool:
    """Whether some finite output differs between inputs of a batch or between batches."""
    for column in zip(*outputs, strict=False):
        first = column[0]
        rows = [y[i : i + 1] for y in column for i in range(len(y))] if first.ndim else list(column)
        if len(rows) == 1:  # there is nothing else to compare it with
            rows = [torch.zeros_like(rows[0]), *rows]
        if any(
            bool((a.isfinite() & (a != rows[0])).any()) for a in rows if a.shape == rows[0].shape
        ):
            return True
    return False
