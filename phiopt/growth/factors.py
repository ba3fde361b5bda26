"""Make up in the student's weights for a constant factor that differs between the models.

The teacher's ``c W x`` is the student's ``c' (c/c' W) x``. This needs that nothing else reads ``W`` or the product, or
that the others are made up for in turn: a tied weight, scaled for one reader, is undone in what it is multiplied with
at the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from phiopt.growth.axes import ParameterAxis, Term, marked
from phiopt.growth.catalogue import facts
from phiopt.growth.correspond import Correspondence
from phiopt.growth.graph import Node, Value
from phiopt.growth.pairs import Axis, Factor
from phiopt.growth.runs import Computation
from phiopt.growth.unit_plan import blocks, marks

Mark = tuple[Term, ParameterAxis, float]
"""A term to multiply, for the rows of a parameter, by a factor."""
_DEEPEST = 4
"""How often a factor may be undone in turn."""


def settle_factors(state: Correspondence) -> None:
    """Make up for all factors that differ. Record those for which this cannot be done as reasons.

    A factor may turn out to be on an input axis of a parameter, which has no rows to multiply. It is recorded too.
    """
    graph = _Graph(state)
    rows: list[tuple[ParameterAxis, str]] = []
    for factor in state.factors:
        marked_rows = graph.rows(factor, _DEEPEST)
        if marked_rows is None:
            state.inexact_reasons[factor.reason] = None
            continue
        for term, source, ratio in marked_rows:
            term.rescale[source] = term.rescale.get(source, 1.0) * ratio
            rows.append((source, factor.reason))
    for (name, dim), reason in rows:
        place = state.by_student()[name]
        if dim in place.input_axes or (marks(place.axes[dim].term, (name, dim))[1] == 1.0).all():
            state.inexact_reasons[reason] = None


@dataclass(frozen=True)
class _Makers:
    """The student's parameters in which a value is linear, and what reads them besides."""

    names: set[str]
    elsewhere: list[tuple[Node, Value]]
    """Operations that read one of the parameters, each with the parameter's value there."""
    whole: bool
    """Whether no other value is a part of the parameters' rows, as queries are of packed queries, keys and values."""


class _Graph:
    """The student's computation, with the readers and the maker of every value."""

    def __init__(self, state: Correspondence) -> None:
        self._state = state
        trace = state.student
        self._readers = trace.readers
        self._producers, self._data = trace.producers, Computation.of(trace).data
        self._ends = {o.id for o in trace.outputs}

    def rows(self, factor: Factor, depth: int) -> list[Mark] | None:
        """The rows of parameters that take up a factor; ``None`` if some part of the model would change too."""
        made_by = None if factor.scales is None or depth == 0 else self._makers(factor.value)
        if factor.scales is None or made_by is None or not made_by.names:
            return None
        out = self._own_rows(made_by, factor.scales, factor.ratio)
        for node, weight in made_by.elsewhere:
            undone = self._undone(node, weight, factor, depth)
            if out is None or undone is None:
                return None
            out += undone
        return out

    def _own_rows(self, made_by: _Makers, scales: Axis, ratio: float) -> list[Mark] | None:
        sources = sorted(o for o in scales.source_parameters if o[0] in made_by.names)
        if sorted(made_by.names) != [name for name, _ in sources]:
            return None  # a parameter has no row of this axis, or two
        rows: list[Mark] = []
        for source in sources:
            whole = self._state.by_student()[source[0]].axes[source[1]].term
            if made_by.whole or scales.size == whole.size:
                rows.append((whole, source, ratio))
            elif whole.same:  # an axis that does not grow has no terms for its blocks
                return None
            else:
                terms = [b for t in marked(scales.term) for b in blocks(whole, t)]
                if not terms:
                    return None
                rows += [(t, source, ratio) for t in terms]
        return rows

    def _undone(self, node: Node, weight: Value, factor: Factor, depth: int) -> list[Mark] | None:
        """The rows that undo the factor where ``node`` multiplies a value with the same weight."""
        while facts(node.name).regroups:
            weight = node.outputs[0]
            if len(self._readers[weight.id]) != 1:
                return None
            node = self._readers[weight.id][0]
        biases = {k for k, x in facts(node.name).optional.items() if x == 0.0}
        others = [v for k, v in node.arguments.items() if isinstance(v, Value) and k not in biases]
        others = [v for v in others if v != weight]
        twins = self._state.twins
        if not facts(node.name).product or len(others) != 1 or others[0].id not in twins:
            return None
        value = others[0]
        scales = self._state.pair(twins[value.id], value).scales
        undo = Factor(value, scales, 1.0 / factor.ratio, factor.reason)
        return self.rows(undo, depth - 1)

    def _makers(self, value: Value) -> _Makers | None:
        """The parameters in which ``value`` is linear; ``None`` if something else changes with them."""
        cone: dict[int, Value] = {}
        todo, names = [value], set[str]()
        while todo:
            v = todo.pop()
            if v.id in cone:
                continue
            cone[v.id] = v
            if v.id in self._state.student.tensors:
                names.add(self._state.student.tensors[v.id])
            elif v.id in self._producers:
                before = self._linear_in(self._producers[v.id])
                if before is None:
                    return None
                todo += before
            elif v.id in self._data:
                return None
        elsewhere: list[tuple[Node, Value]] = []
        whole = self._read_once(value) and len(self._readers[value.id]) == 1
        for v in cone.values():
            whole &= v is value or all(self._reads_whole(n, cone) for n in self._readers[v.id])
            others = [] if v is value else self._outside(v, cone)
            if v.id in self._ends or (others and v.id not in self._state.student.tensors):
                return None
            elsewhere += [(node, v) for node in others]
        return _Makers(names, elsewhere, whole) if self._read_once(value) else None

    def _reads_whole(self, node: Node, cone: dict[int, Value]) -> bool:
        """Whether all that an operation makes, if it takes parts of a tensor, leads to the value or nowhere."""
        several = len(node.outputs) > 1
        if not several and not facts(node.name).part:
            return True
        return all(o.id in cone or not self._readers[o.id] for o in node.outputs)

    def _read_once(self, value: Value) -> bool:
        """Whether nothing reads a value, or nothing reads the same part of it, but the factor."""
        readers = self._readers[value.id]
        return len(readers) <= max(1, len({_part(n) for n in readers if facts(n.name).part}))

    def _outside(self, v: Value, cone: dict[int, Value]) -> list[Node]:
        """The operations besides those of the cone that read ``v``, or a part of it that the cone reads."""
        inside = [n for n in self._readers[v.id] if any(o.id in cone for o in n.outputs)]
        parts = {_part(n) for n in inside}
        outside = [n for n in self._readers[v.id] if n not in inside]
        return [n for n in outside if not (None not in parts and _part(n) not in {None, *parts})]

    def _linear_in(self, node: Node) -> list[Value] | None:
        """The tensors of an operation in which it is linear, on the way back to the parameters."""
        known = facts(node.name)
        constants = self._state.student.constants
        inputs = [v for v in node.inputs if v.id not in constants]
        weights = [v for v in inputs if v.id not in self._data]
        product = known.product or 1.0 in known.neutral.values()
        if product and weights:
            added = {k for k, x in known.optional.items() if x == 0.0}
            biases = [v for k in added if (v := node.arguments.get(k)) in weights]
            factors = [v for v in weights if v not in biases]
            return [*factors, *biases] if len(factors) == 1 else None
        if isinstance(node.arguments.get("weight"), Value):  # of a normalisation
            return [v for k in ("weight", "bias") if isinstance(v := node.arguments.get(k), Value)]
        if not product:
            return None if _adds_a_number(node) and not self._shifted(node) else inputs
        # It is linear in each operand. One of them takes up the factor.
        state = self._state
        pairs = [(v, state.pair(state.twins[v.id], v)) for v in inputs if v.id in state.twins]
        scaled = [v for v, pair in pairs if pair.scales is not None]
        return scaled[-1:] if known.product else scaled[:1]

    def _shifted(self, node: Node) -> bool:
        """Whether a sum of a parameter and a number is what counts of the parameter."""
        name = self._state.student.tensors.get(node.inputs[0].id)
        place = self._state.by_student().get(name) if name else None
        return place is not None and place.shift != 0.0


def _adds_a_number(node: Node) -> bool:
    return 0.0 in facts(node.name).neutral.values() and len(node.inputs) == 1


def _part(node: Node) -> tuple[object, ...] | None:
    """Which part of its tensor an operation takes; ``None`` if it takes the whole."""
    part = facts(node.name).part
    return (node.name, *(node.arguments[name] for name in part)) if part else None
