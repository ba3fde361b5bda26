"""Make up in the student's weights for a constant factor that differs between the models.

The teacher's ``c W x`` is the student's ``c' (c/c' W) x``. This needs that nothing else reads ``W`` or the product: a
tied weight, or a value that is also read before the factor, cannot be rescaled for one reader alone.
"""

from __future__ import annotations

from phiopt.growth.axes import ParameterAxis, Term, marked
from phiopt.growth.catalogue import facts
from phiopt.growth.correspond import Correspondence
from phiopt.growth.graph import Node, Value
from phiopt.growth.pairs import Axis
from phiopt.growth.unify import find
from phiopt.growth.unit_plan import marks


def rescale(
    state: Correspondence, value: Value, scales: Axis | None, ratio: float, reason: str
) -> bool:
    """Multiply the rows of the parameters that make ``value`` by ``ratio``, unless that changes something else too.

    Args:
        value: The student's value, linear in the axis ``scales``.
        scales: The axis of the rows; ``None`` where there is none.
        ratio: The teacher's factor divided by the student's.
        reason: Why the map is not exact if a parameter turns out not to take up the factor.

    Returns:
        Whether the rows are multiplied.
    """
    made_by = None if scales is None else _makers(state, value)
    if scales is None or not made_by:
        return False
    sources = sorted(o for o in scales.source_parameters if o[0] in made_by)
    if sorted(made_by) != [
        name for name, _ in sources
    ]:  # a parameter has no row of this axis, or two
        return False
    rows: list[tuple[Term, ParameterAxis]] = []
    for source in sources:
        whole = state.by_student()[source[0]].axes[source[1]].term
        if scales.size == whole.size:
            rows.append((whole, source))
        elif whole.same:  # an axis that does not grow has no terms for its blocks
            return False
        else:
            rows += [(whole if find(whole) is find(t) else t, source) for t in marked(scales.term)]
    state.rescaled += [(source, reason) for source in sources]
    for term, source in rows:
        term.rescale[source] = term.rescale.get(source, 1.0) * ratio
    return True


def check_rescaled(state: Correspondence) -> None:
    """Record the factors that no parameter takes up after all, because its axis turned out to be an input axis."""
    for (name, dim), reason in state.rescaled:
        place = state.by_student()[name]
        if dim in place.input_axes or (marks(place.axes[dim].term, (name, dim))[1] == 1.0).all():
            state.inexact_reasons[reason] = None


def _makers(state: Correspondence, value: Value) -> set[str] | None:
    """The student's parameters in which ``value`` is linear; ``None`` if they make something else too."""
    trace = state.student
    readers: dict[int, list[Node]] = {}
    producers: dict[int, Node] = {}
    data = {v.id for v in trace.inputs}
    for node in trace.nodes:
        for v in node.inputs:
            readers.setdefault(v.id, []).append(node)
        producers |= {o.id: node for o in node.outputs}
        if any(v.id in data for v in node.inputs):
            data |= {o.id for o in node.outputs}
    ends = {o.id for o in trace.outputs}
    names: set[str] = set()
    todo = [value]
    while todo:
        v = todo.pop()
        parts = {
            (n.name, *(n.arguments[name] for name in facts(n.name).part))
            for n in readers[v.id]
            if facts(n.name).part
        }
        if v.id in ends or len(readers[v.id]) > max(1, len(parts)):
            return None
        if v.id in trace.tensors:
            names.add(trace.tensors[v.id])
        elif v.id in producers:
            todo += _linear_in(state, producers[v.id], data)
        elif v.id in data:
            return None
    return names


def _linear_in(state: Correspondence, node: Node, data: set[int]) -> list[Value]:
    """The tensors of an operation in which it is linear, on the way back to the parameters."""
    known = facts(node.name)
    weights = [v for v in node.inputs if v.id not in data]
    if known.product and weights:
        return weights
    if not known.product and 1.0 not in known.neutral.values():
        return node.inputs
    # It is linear in each operand. One of them takes up the factor.
    pairs = [(v, state.pair(state.twins[v.id], v)) for v in node.inputs if v.id in state.twins]
    scaled = [v for v, pair in pairs if pair.scales is not None]
    return scaled[-1:] if known.product else scaled[:1]
