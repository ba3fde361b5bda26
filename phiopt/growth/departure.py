"""Find where a student's values first differ from its teacher's, along the graph from the outputs back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phiopt.growth.axes import Term
from phiopt.growth.correspond import Correspondence
from phiopt.growth.errors import AlignmentError, Side
from phiopt.growth.graph import Node, Trace, Value
from phiopt.growth.index_map import index_map
from phiopt.growth.pairs import Pair
from phiopt.growth.unify import find


@dataclass(frozen=True)
class Gap:
    """Largest difference of two values, and the largest of the teacher's values."""

    change: float
    size: float

    @property
    def relative(self) -> float:
        return self.change / self.size if self.size else float("inf") if self.change else 0.0

    @classmethod
    def between(cls, old: Tensor, new: Tensor) -> Gap:
        """The gap of two values, at the coordinates where the teacher's value is finite."""
        old, new = (_real(x) for x in (old, new))
        known = old.isfinite()
        if not known.any():
            return cls(0.0, 0.0)
        change = (old - new)[known].abs()
        return cls(float(change.nan_to_num(nan=torch.inf).max()), float(old[known].abs().max()))


@dataclass(frozen=True)
class Departure:
    """Two operations that read the same values and make different ones."""

    teacher: Node
    student: Node
    gap: Gap

    def describe(self, teacher: nn.Module, student: nn.Module) -> str:
        return (
            f"The first to depart is {self.student.name} in {_where(self.student, student)} of the student, for "
            f"{self.teacher.name} in {_where(self.teacher, teacher)} of the teacher: it reads the same values and is "
            f"off by {self.gap.change:.3g}, where the teacher's are up to {self.gap.size:.3g}"
        )


@dataclass(frozen=True)
class Difference:
    """How far the outputs are off, and where the difference starts, if that could be found."""

    gap: Gap
    departure: Departure | None

    def error(self, fill: str, teacher: nn.Module, student: nn.Module) -> AlignmentError:
        where = (
            "Where it starts could not be found: with real values the models run by other operations"
            if self.departure is None
            else self.departure.describe(teacher, student)
        )
        first = self.departure
        return AlignmentError(
            f"fill={fill!r} does not keep the function, although the map gives no reason: the student's outputs at "
            f"ψ(x) are off by {self.gap.change:.3g}, the teacher's being up to {self.gap.size:.3g}. {where}",
            "Give both modules the same options, take another fill (zero-out asks the least of the models), or teach "
            "the map the operation with phiopt.growth.register_rule; verify=False takes the student as it is",
            teacher=Side.of(first.teacher if first else None),
            student=Side.of(first.student if first else None),
        )


def on_teacher(value: Tensor, pair: Pair) -> Tensor:
    """The student's value at the teacher's coordinates."""
    for dim, axis in enumerate(pair.axes):
        index = torch.from_numpy(index_map(axis.term))
        moved = not torch.equal(index, torch.arange(len(index), device="cpu"))
        if axis.grown or moved:  # an axis of equal sizes may change its order
            value = value.index_select(dim, index.to(value.device))
    return value


def matched(
    planned: Trace, ran: Trace, kept: dict[int, Tensor], inputs: Sequence[Tensor]
) -> dict[int, Tensor] | None:
    """The results of a run by the ids of the ``planned`` trace; ``None`` if the run has other operations."""
    if [n.name for n in planned.nodes] != [n.name for n in ran.nodes]:
        return None
    out = {v.id: x for v, x in zip(planned.inputs, inputs, strict=True)}
    for a, b in zip(planned.nodes, ran.nodes, strict=True):
        out |= {v.id: kept[w.id] for v, w in zip(a.outputs, b.outputs, strict=True)}
    return out


class Comparison:
    """Values of both models on one batch.

    Args:
        state: What is known of every pair of values.
        teacher: The teacher's values, by their ids in the correspondence.
        student: The student's values, likewise.
        tolerance: Relative difference up to which two values are the same.
    """

    def __init__(
        self,
        state: Correspondence,
        teacher: dict[int, Tensor],
        student: dict[int, Tensor],
        tolerance: float,
    ) -> None:
        self._state, self._teacher, self._student = state, teacher, student
        self._tolerance = tolerance
        self._factors = sorted({1.0, *_factors(state)})
        self._producers = [trace.producers for trace in (state.teacher, state.student)]
        first: dict[int, int] = {}
        for new, old in state.twins.items():
            first[old.id] = min(new, first.get(old.id, new))
        self._inserted = {new for new, old in state.twins.items() if first[old.id] != new}

    def first(self) -> Departure | None:
        """The first two operations that differ, among those from which the difference of the outputs comes."""
        makers = self._producers[1]
        todo = [v for v in self._state.student.outputs if self._gap(v) is not None]
        seen: set[int] = set()
        causes: dict[int, Gap] = {}
        while todo:
            value = todo.pop()
            if value.id in seen or value.id not in makers:
                continue
            seen.add(value.id)
            before = [v for v in self._read(makers[value.id], value) if self._gap(v) is not None]
            todo += before
            gap = self._gap(value)
            if not before and gap is not None:
                causes[value.id] = gap
        if not causes:
            return None
        cause = min(causes)
        student = makers[cause]
        teacher = self._producers[0].get(self._state.twins[cause].id, student)
        return Departure(teacher, student, causes[cause])

    def _read(self, node: Node, value: Value) -> list[Value]:
        """The data that an operation reads. An operation that only the student has reads what it passes on."""
        known = [v for v in node.inputs if v.id in self._state.twins]
        if value.id not in self._inserted:
            return known
        stream = [v for v in known if self._state.twins[v.id].id == self._state.twins[value.id].id]
        return sorted(stream, key=lambda v: v.id)[:1]

    def _gap(self, value: Value) -> Gap | None:
        """How far the student's value is off; ``None`` if it agrees or depends on no data."""
        twin = self._state.twins.get(value.id)
        if twin is None:
            return None
        pair = self._state.pairs[twin.id, value.id]
        old, new = self._teacher.get(twin.id), self._student.get(value.id)
        if pair.weight or old is None or new is None or not _number(old) or not _number(new):
            return None
        new = on_teacher(new, pair)
        if old.shape != new.shape:
            return None
        gaps = [Gap.between(factor * old, new) for factor in self._factors]
        if min(gap.relative for gap in gaps) <= self._tolerance:
            return None
        return gaps[self._factors.index(1.0)]


def _factors(state: Correspondence) -> Iterator[float]:
    """The factors by which the student's weights make up for other constants."""
    todo: list[Term] = [axis.term for place in state.places.values() for axis in place.axes]
    while todo:
        term = todo.pop()
        yield from term.rescale.values()
        node = find(term)
        yield from node.rescale.values()
        todo += node.parts


def _number(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _real(x: Tensor) -> Tensor:
    x = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    return x.to("cpu", torch.float64)


def _where(node: Node, model: nn.Module) -> str:
    if not node.module:
        return f"the root module ({type(model).__name__})"
    return f"{node.module!r} ({type(model.get_submodule(node.module)).__name__})"
