"""What a rule sees: two aligned operations with the axes of their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from phiopt.growth.axes import Mismatch, ParameterAxis, Size, Term, marked
from phiopt.growth.catalogue import facts
from phiopt.growth.correspond import Correspondence
from phiopt.growth.graph import Node, Value
from phiopt.growth.optional import paired
from phiopt.growth.options import difference, differences, same_option
from phiopt.growth.pairs import Axis, Pair
from phiopt.growth.unify import find, unify


class Call:
    """Two aligned operations, as a rule sees them. A rule reads axes, equates them, and gives every output its axes.

    Arguments have the names of the operator's schema. ``t`` and ``s`` are the nodes of the teacher and the student.
    """

    def __init__(self, state: Correspondence, teacher: Node, student: Node) -> None:
        self.state, self.t, self.s = state, teacher, student
        self._read: set[str] = set()

    # -- reading ------------------------------------------------------------------------------------------------------

    def pair(self, name: str) -> Pair:
        """The teacher's and the student's tensor ``name``, as a pair of axes."""
        return self.state.pair(*self._arguments(name))

    def has(self, name: str) -> bool:
        """Whether both operations are given the optional tensor ``name``."""
        return all(isinstance(n.arguments.get(name), Value) for n in (self.t, self.s))

    def listed(self, name: str) -> list[Pair]:
        """The pairs of the list of tensors ``name``. Teacher and student must have equally many."""
        ts, ss = self._arguments(name)
        if len(ts) != len(ss):
            raise Mismatch(
                f"{len(ts)} tensors in the teacher but {len(ss)} in the student. Where a list of layers, "
                "such as experts, is longer in the student, nothing says what the new ones are to do",
                "Give both models as many",
            )
        return [self.state.pair(t, s) for t, s in zip(ts, ss, strict=True)]

    def const(self, name: str) -> Any:
        """An argument that is no tensor. It must mean the same in teacher and student."""
        value, _ = self.both(name)
        if not same_option(self.t, self.s, name):
            raise difference(self.t, self.s, name).mismatch()
        return value

    def both(self, name: str) -> tuple[Any, Any]:
        """An argument that is no tensor: (teacher's, student's). They may differ."""
        self._read.add(name)
        return self._arguments(name)

    def dim(self, name: str, rank: int) -> int:
        """The number of an axis, counted from the front."""
        return int(self.const(name)) % max(rank, 1)

    def dims(self, name: str, rank: int) -> list[int]:
        """The numbers of several axes, counted from the front. No axes given means all axes."""
        given = self.const(name)
        listed = (
            range(rank)
            if given is None or given == []
            else [given]
            if isinstance(given, int)
            else given
        )
        return [d % max(rank, 1) for d in listed]

    def _arguments(self, name: str) -> tuple[Any, Any]:
        """(teacher's, student's) argument.

        Raises:
            ValueError: The operation has no argument of this name.
        """
        for node in (self.t, self.s):
            if name not in node.arguments:
                listed = ", ".join(node.arguments)
                raise ValueError(
                    f"the rule of {node.name!r} asks for {name!r}, must be one of its arguments: {listed}"
                )
        return self.t.arguments[name], self.s.arguments[name]

    def out(self, i: int = 0, of_student: int | None = None) -> list[Size]:
        """(teacher's, student's) size of each axis of output ``i``. The student's output may have another number."""
        j = i if of_student is None else of_student
        return list(zip(self.t.outputs[i].shape, self.s.outputs[j].shape, strict=True))

    def numbers(self) -> list[int]:
        """The number of the student's output for each of the teacher's, where the student may have more."""
        if self.state.branches is None:
            return list(range(len(self.t.outputs)))
        return self.state.branches.outputs_for(self.t, self.s)

    # -- equating -----------------------------------------------------------------------------------------------------

    def join(self, a: Axis, b: Axis) -> Axis:
        """Equate two axes. The parameters of both make the result."""
        unify(a.term, b.term)
        return Axis(a.term, a.source_parameters | b.source_parameters)

    def contract(self, a: Pair, i: int, b: Pair, j: int) -> None:
        """Sum the product of ``a`` and ``b`` over axis ``i`` of ``a``, which is axis ``j`` of ``b``.

        A parameter that is summed over reads units. One of which a part is summed over and another part is kept, as
        the heads of a position's key are, makes units.
        """
        first, second = a.axes[i], b.axes[j]
        reader = second if b.weight else first if a.weight else None
        kept = [p.axes[0] for p in (a, b) if p.weight and len(p.axes) > 2]
        if a.weight and b.weight:
            self.state.products.append((first, second))
        elif (
            reader is not None
            and reader.source_parameters
            and not reader.source_parameters & self.state.output_axes
            and not any(reader.source_parameters & axis.source_parameters for axis in kept)
        ):
            self.mark_input_axes(reader.source_parameters)
        elif first.grown:
            # Two activations; or an activation and a constant, or a tied weight that makes the same units.
            # New coordinates of one of the two must be zero.
            zeroed = first if b.weight else second
            for term, origin in self.makers(zeroed):
                term.zero_new.add(origin)
                self.state.zeroed.append((term, origin))
            if not zeroed.source_parameters:
                self.inexact("a contraction over a widened axis that no layer makes")
        self.join(first, second)

    def makers(self, axis: Axis) -> Iterator[tuple[Term, ParameterAxis]]:
        """The axes of parameters that make the coordinates of ``axis``, or the blocks of these axes."""
        by_student = self.state.by_student()
        for origin in axis.source_parameters:
            whole = by_student[origin[0]].axes[origin[1]].term
            for term in marked(axis.term):
                yield (whole if find(whole) is find(term) else term), origin

    def mark_input_axes(self, axes: Iterable[ParameterAxis]) -> None:
        """Mark these axes of parameters as input axes: they read units and make none."""
        self.state.mark_input_axes(axes)

    def inexact(self, reason: str) -> None:
        """Record why no growth of this layer keeps the function exactly."""
        self.state.inexact_reasons[f"{self.s.module or 'the root module'}: {reason}"] = None

    def compare_options(self) -> None:
        """Look at the options that differ and that no rule has read. One that only changes values is recorded.

        Raises:
            Mismatch: An option that counts coordinates differs.
        """
        for option in differences(self.t, self.s, self._read):
            if option.counted:
                raise option.mismatch()
            self.inexact(option.text)

    # -- outputs -----------------------------------------------------------------------------------------------------

    def set(
        self,
        axes: Sequence[Axis],
        i: int = 0,
        *,
        scales: Axis | None = None,
        squared: bool = False,
        weight: bool | None = None,
        of_student: int | None = None,
    ) -> None:
        """Give output ``i`` its axes.

        Args:
            axes: One for each dimension. Their sizes are checked against the recorded shapes.
            i: The number of the output.
            scales: An axis of parameters' rows in which the output is linear.
            squared: Whether the output is the square of an activation.
            weight: Whether the output counts as a parameter. ``None``: if it is computed from parameters alone.
            of_student: The number of the student's output, if it is another.
        """
        sizes = self.out(i, of_student)
        if [a.size for a in axes] != sizes:
            raise Mismatch(
                f"the rule gives axes {[a.size for a in axes]}, the operation made {sizes}"
            )
        for t, s in sizes:
            if t > s:
                where = self.t.module or "the root module"
                self.inexact(
                    f"of {t} coordinates of an axis in {where!r} of the teacher, such as heads or windows, the student "
                    f"has {s}, and not all find room; give the student at least as many"
                )
        inputs = list(self._inputs())
        if weight is None:
            weight = bool(inputs) and all(p.weight for p in inputs)
        if not weight:
            self.state.output_axes.update(*(a.source_parameters for a in axes))
        known = facts(self.t.name)
        averages = known.product or (known.linear and all(p.averages for p in inputs))
        if "groups" in self.t.arguments:
            averages = averages and self.both("groups") == (1, 1)
        self.state.start(
            self.t.outputs[i],
            self.s.outputs[i if of_student is None else of_student],
            Pair(tuple(axes), weight, scales, averages, squared),
        )

    def _inputs(self) -> Iterator[Pair]:
        """The pairs of all tensors. Of lists of which the student's is longer, those that stand for the teacher's."""
        longer = [
            s
            for name, old in self.t.arguments.items()
            if isinstance(old, list) and len(old) != len(self.s.arguments.get(name) or old)
            for s in self.s.arguments[name]
        ]
        if not longer:
            for t, s in paired(self.t, self.s):
                yield self.state.pair(t, s)
        for s in longer:
            twin = self.state.twins.get(s.id) if isinstance(s, Value) else None
            if twin in self.t.inputs:
                yield self.state.pair(twin, s)

    def set_same(self) -> None:
        """Give all outputs free axes. This is right where no axis grows or changes its order."""
        for i in range(len(self.t.outputs)):
            self.set([Axis(Term(t, s)) for t, s in self.out(i)], i)
