"""The correspondence of two computations: a pair for every two aligned values, a place for every parameter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from phiopt.growth.axes import Mismatch, ParameterAxis, Term, sized
from phiopt.growth.branches import Branches
from phiopt.growth.catalogue import Lookup, facts
from phiopt.growth.errors import AlignmentError
from phiopt.growth.graph import Node, Trace, Value
from phiopt.growth.lifted import Moves
from phiopt.growth.pairs import Axis, ConstantPair, Factor, Norm, Pair, TensorPlace
from phiopt.growth.repeated import shared


def times(node: Node | None) -> float | None:
    """The number by which an operation multiplies its only tensor; ``None`` if it does something else."""
    if node is None or len(node.inputs) != 1 or node.arguments.get("self") != node.inputs[0]:
        return None
    number = node.arguments.get("other")
    if facts(node.name).neutral.get("other") != 1.0 or not isinstance(number, int | float):
        return None
    if node.arguments.get("rounding_mode") is not None or not number:
        return None
    return float(number) if "self" in facts(node.name).neutral else 1.0 / number


def _free(t: Value, s: Value) -> Pair:
    """The pair of two tensors of which nothing is known."""
    axes = tuple(Axis(sized(a, b)) for a, b in zip(t.shape, s.shape, strict=True))
    return Pair(axes, True, averages=True)


def _looked_up(node: Node, lookup: Lookup) -> set[int]:
    """The axes of a table along which an operation's indices count."""
    given = node.arguments[lookup.indices]
    listed = given if isinstance(given, list) else [given]
    return {lookup.axis(node, i) for i, index in enumerate(listed) if index is not None}


def _repeat(maker: Node | None) -> Node | None:
    return maker if maker is not None and facts(maker.name).repeats else None


@dataclass
class Correspondence:
    """What the alignment has found so far."""

    teacher: Trace
    student: Trace
    places: dict[str, TensorPlace] = field(default_factory=dict)
    """Where each tensor of the teacher sits, by the teacher's name."""
    pairs: dict[tuple[int, int], Pair] = field(default_factory=dict)
    """By the ids of the teacher's and the student's value."""
    twins: dict[int, Value] = field(default_factory=dict)
    """The teacher's value for which a value of the student stands, by the id of the student's value."""
    norms: list[Norm] = field(default_factory=list)
    output_axes: set[ParameterAxis] = field(default_factory=set)
    """Axes of parameters that make units. A tied weight may read units along the same axis elsewhere."""
    products: list[tuple[Axis, Axis]] = field(default_factory=list)
    """Pairs of parameters' axes that are summed over against each other, as in weight @ vector."""
    zeroed: list[tuple[Term, ParameterAxis]] = field(default_factory=list)
    """Axes whose new coordinates must be zero, each with the axis of a parameter that makes them."""
    constants: list[ConstantPair] = field(default_factory=list)
    """Constants that paired operations read. They are compared when all axes are decided."""
    rounding: float = 0.0
    """The coarsest rounding up to which constants are equal."""
    factors: list[Factor] = field(default_factory=list)
    """Constant factors that differ. Weights make up for them when all axes are decided, or the map is not exact."""
    inexact_reasons: dict[str, None] = field(default_factory=dict)
    """Why the function cannot be kept exactly, in the order found. A dictionary keeps the order."""
    added: dict[str, float] = field(default_factory=dict)
    """Parameters that only the student's layers have, with the value that makes each do nothing."""
    gone: dict[str, float] = field(default_factory=dict)
    """Parameters that only the teacher's layers have, likewise."""
    left_out: list[str] = field(default_factory=list)
    """Paths of the teacher's blocks that the student lacks."""
    moves: Moves | None = None
    """Where ψ puts the teacher's inputs."""
    branches: Branches | None = None
    """Which tensors belong together where the student splits or joins more of them."""

    def __post_init__(self) -> None:
        self._by_student: dict[str, TensorPlace] = {}
        self._computed = self.teacher.producers, self.student.producers

    def start(self, t: Value, s: Value, pair: Pair) -> None:
        """Record that ``s`` stands for ``t``."""
        self.pairs[t.id, s.id] = pair
        self.twins[s.id] = t

    def pair(self, t: Value, s: Value) -> Pair:
        """The pair of two values. Parameters and constants get theirs here when they are met first."""
        key = t.id, s.id
        if key not in self.pairs:
            self.pairs[key] = self._new(t, s)
        return self.pairs[key]

    def _new(self, t: Value, s: Value) -> Pair:
        names = self.teacher.tensors.get(t.id), self.student.tensors.get(s.id)
        maker = self._computed[1].get(s.id)
        repeats = tuple(
            _repeat(made.get(v.id)) for made, v in zip(self._computed, (t, s), strict=True)
        )
        if any(repeats):
            return self._repeated((t, s), repeats)
        if names[0] is not None and maker is not None:
            against_whole = facts(maker.name).against_whole
            if against_whole is not None:
                return against_whole(self.pair(t, maker.arguments["self"]), maker)
        for side, other in ((1, names[0]), (0, names[1])):
            multiplied = self._computed[side].get((t, s)[side].id)
            number = times(multiplied)
            if multiplied is not None and number is not None and other is not None:
                return self._scaled(multiplied, (None, s) if side == 0 else (t, None), number)
        stand_in = self._stand_in(t, s)
        if stand_in is not None:
            return stand_in
        self._check_made(t, s, names)
        if names[0] is None or names[1] is None:
            return _free(t, s)
        return self._placed(names[0], names[1], t, s)

    def _only_looked_up(self, table: Value, dim: int) -> bool:
        """Whether the teacher does nothing with a tensor but to look up its rows along other axes, as a bias is."""
        readers = self.teacher.readers[table.id]
        lookups = [facts(node.name).lookup for node in readers]
        return bool(readers) and all(
            lookup is not None
            and node.arguments[lookup.table] == table
            and dim not in _looked_up(node, lookup)
            for node, lookup in zip(readers, lookups, strict=True)
        )

    def _stand_in(self, t: Value, s: Value) -> Pair | None:
        """The pair of two values if ``s`` is made of what stands for ``t``, by modules that only the student has.

        They are no identity. What they make keeps the place of what they read, which is the nearest that there is.
        """
        maker, before = self._computed[1].get(s.id), self._computed[0].get(t.id)
        known = [self.pairs[t.id, id] for id, twin in self.twins.items() if twin == t]
        sizes = tuple(zip(t.shape, s.shape, strict=False))
        known = [pair for pair in known if pair.sizes == sizes and not pair.weight]
        if not known or maker is None or before is None or len(t.shape) != len(s.shape):
            return None
        if self.branches is None or maker.module in self.branches.modules:
            return None
        there, here = (node.module or "the root module" for node in (before, maker))
        self.inexact_reasons[
            f"{here}: the student has layers here that the teacher has not, which are no identity, as layers of "
            "another width in between or a pooling are not. What they make stands for the result of "
            f"{there!r} in the teacher; give both models the same, or name other pairs with correspondence="
        ] = None
        self.start(t, s, known[-1])
        return known[-1]

    def _scaled(
        self, maker: Node, values: tuple[Value | None, Value | None], number: float
    ) -> Pair:
        """The pair of two parameters of which one model multiplies its own by a number before anything reads it."""
        parameter = maker.inputs[0]
        t, s = (parameter if v is None else v for v in values)
        pair = self.pair(t, s)
        if number != 1.0:
            of_student = values[1] is None
            where = maker.module or "the root module"
            reason = f"{where}: a parameter times {number:g} in one of the models alone"
            ratio = 1.0 / number if of_student else number
            self.factors.append(Factor(s, pair.axes[0] if pair.axes else None, ratio, reason))
        return pair

    def _placed(self, teacher: str, student: str, t: Value, s: Value) -> Pair:
        """The pair of two parameters or buffers. From now on the teacher's sits in the student's."""
        for dim, (a, b) in enumerate(zip(t.shape, s.shape, strict=True)):
            if a > b and self._only_looked_up(t, dim):
                self.left_out.append(teacher)
                self.inexact_reasons[
                    f"{student}: of size {b} on axis {dim}, but {teacher} of the teacher has {a}. It is a table that "
                    "no layer makes, and is left out; give the student at least the teacher's size"
                ] = None
                return _free(t, s)
            if a > b:
                raise AlignmentError(
                    f"the student is smaller than its teacher: {teacher} has size {a} on axis {dim}, "
                    f"{student} has {b}",
                    "Give the student at least the teacher's size (the teacher is the first argument, the student the "
                    "second)",
                )
        known = self.places.get(teacher)
        if known is not None and known.student != student:
            raise AlignmentError(
                f"{teacher} of the teacher sits in both {known.student} and {student} of the student: "
                "the teacher shares what the student does not",
                "Share it in the student too, or give the teacher a copy for each place",
            )
        terms = [Term(a, b) for a, b in zip(t.shape, s.shape, strict=True)]
        axes = tuple(Axis(term, frozenset({(student, d)})) for d, term in enumerate(terms))
        self.places[teacher] = self._by_student[student] = TensorPlace(student, axes)
        return Pair(axes, weight=True, averages=True)

    def _check_made(self, t: Value, s: Value, names: tuple[str | None, str | None]) -> None:
        """Check that two values that nothing has paired are two parameters or two constants of as many axes.

        Raises:
            AlignmentError: They are not.
        """
        if (names[0] is None) != (names[1] is None):
            owner, other = ("teacher", "student") if names[0] else ("student", "teacher")
            if t.id in self.teacher.constants or s.id in self.student.constants:
                raise AlignmentError(
                    f"the {owner}'s {names[0] or names[1]!r} is a constant in the {other}",
                    "Register the same tensor in both",
                )
            raise AlignmentError(
                f"the {owner}'s {names[0] or names[1]!r} is computed in the {other}, as weight norm, pruning and "
                "other parametrizations do",
                "Use the parametrization in both models, or in neither",
            )
        if len(t.shape) != len(s.shape):
            raise AlignmentError(
                f"{names[0] or 'a value'} has {len(t.shape)} axes in the teacher, {len(s.shape)} in the student"
            )
        maker = self._computed[1].get(s.id)
        if t.id in self._computed[0] or s.id in self._computed[1]:
            added = (
                "" if maker is None else f", {maker.name} in {maker.module or 'the root module'!r},"
            )
            raise AlignmentError(
                f"a value of shape {t.shape} in the teacher has no counterpart in the student. What the student adds "
                f"there{added} cannot start as the identity, as a stage of another resolution, a pooling or another "
                "activation cannot, or the wrong layers are paired",
                "Add residual blocks, or layers of stride 1 and equal width, or name the pairs with correspondence=",
            )

    def _repeated(self, values: tuple[Value, Value], repeats: tuple[Node | None, ...]) -> Pair:
        """The pair of two values of which one, or both, are another with each coordinate of an axis repeated."""
        dims = {n.arguments["dim"] for n in repeats if n is not None}
        if len(dims) > 1:
            raise Mismatch(f"axes {sorted(dims)} are repeated, one in each model")
        before = [
            v if n is None else n.arguments["self"] for v, n in zip(values, repeats, strict=True)
        ]
        times = [1 if n is None else n.arguments["repeats"] for n in repeats]
        source = self.pair(before[0], before[1])
        axes = list(source.axes)
        (dim,) = dims
        axes[dim] = shared(axes[dim], (times[0], times[1]))
        pair = replace(source, axes=tuple(axes))
        self.twins.setdefault(values[1].id, values[0])
        return pair

    def settle_products(self) -> None:
        """Decide for two parameters that are summed over against each other which one reads units.

        A parameter that reads units elsewhere reads them here too. The other one then holds copies, as the vectors of
        spectral norm do. If none reads units elsewhere, it is the one that makes no units.
        """
        for axes in self.products:
            input_axes = {(p.student, d) for p in self.places.values() for d in p.input_axes}
            if not any(axis.source_parameters & input_axes for axis in axes):
                for axis in axes[::-1]:
                    if axis.source_parameters and not axis.source_parameters & self.output_axes:
                        self.mark_input_axes(axis.source_parameters)
                        break

    def mark_input_axes(self, axes: Iterable[ParameterAxis]) -> None:
        """Mark these axes of parameters as input axes: they read units and make none."""
        for name, dim in axes:
            self._by_student[name].input_axes.add(dim)

    def by_student(self) -> dict[str, TensorPlace]:
        """The places by the student's names."""
        return self._by_student
