"""A constant factor that differs between the models, made up for in the student's weights.

The teacher's ``c W x`` is the student's ``c' (c/c' W) x`` where nothing else reads ``W`` or the product. A tied
weight, or a value that is also read before the factor, cannot be rescaled for one of its readers.
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
    """Multiply by ``ratio`` the rows of parameters that make ``value``; whether that changes nothing else.

    Args:
        value: The student's value, linear in the axis ``scales``.
        reason: The remark, should a tensor turn out not to take up the factor.
    """
    made_by = None if scales is None else _makers(state, value)
    if scales is None or not made_by:
        return False
    sources = sorted(o for o in scales.source_parameters if o[0] in made_by)
    if sorted(made_by) != [name for name, _ in sources]:  # one has no row of this axis, or two
        return False
    rows: list[tuple[Term, ParameterAxis]] = []
    for source in sources:
        whole = state.by_student()[source[0]].axes[source[1]].term
        if scales.size == whole.size:
            rows.append((whole, source))
        elif whole.same:  # blocks of an axis that does not grow have no terms of their own
            return False
        else:
            rows += [(whole if find(whole) is find(t) else t, source) for t in marked(scales.term)]
    state.rescaled += [(source, reason) for source in sources]
    for term, source in rows:
        term.rescale[source] = term.rescale.get(source, 1.0) * ratio
    return True


def check_rescaled(state: Correspondence) -> None:
    """Remark the factors that no tensor takes up after all, as where its axis turned out to be read."""
    for (name, dim), reason in state.rescaled:
        place = state.by_student()[name]
        if dim in place.input_axes or (marks(place.axes[dim].term, (name, dim))[1] == 1.0).all():
            state.inexact_reasons[reason] = None


def _makers(state: Correspondence, value: Value) -> set[str] | None:
    """The student's tensors that ``value`` is linear in, or None where they make something else too."""
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
    """The tensors of an operation on the way from the parameters to what they are multiplied by."""
    known = facts(node.name)
    weights = [v for v in node.inputs if v.id not in data]
    if known.product and weights:
        return weights
    if not known.product and 1.0 not in known.neutral.values():
        return node.inputs
    # Linear in either operand, so one of them takes up the factor.
    pairs = [(v, state.pair(state.twins[v.id], v)) for v in node.inputs if v.id in state.twins]
    scaled = [v for v, pair in pairs if pair.scales is not None]
    return scaled[-1:] if known.product else scaled[:1]
