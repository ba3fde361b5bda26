"""What the teacher has and the student lacks: what stands in the student for what it makes."""

from __future__ import annotations

from phiopt.growth.align import Block
from phiopt.growth.axes import Mismatch, Term
from phiopt.growth.catalogue import facts
from phiopt.growth.correspond import Correspondence
from phiopt.growth.errors import AlignmentError
from phiopt.growth.graph import Node, Value
from phiopt.growth.optional import operand
from phiopt.growth.pairs import Axis, Pair


def omit(state: Correspondence, node: Node) -> None:
    """Let an operation that only the teacher has stand for its later operand."""
    images = _images(state)
    known = [v for v in node.inputs if v.id in images]
    if not known:
        raise AlignmentError.at(node, None, "the student has no counterpart for it")
    later = max(known, key=lambda v: v.id)
    image = images[later.id]
    state.start(node.outputs[0], image, state.pair(later, image))
    parameter = operand(state.teacher, node)
    if parameter is not None:
        state.gone[parameter[0]] = parameter[1]
        return
    what = "a sum" if facts(node.name).branches is not None else f"a {node.name}"
    state.inexact_reasons[f"{_where(node)}: {what} that the student does not have"] = None


def leave_out(state: Correspondence, block: Block) -> None:
    """Let what a block of the teacher reads stand for what it makes. The student lacks the block."""
    own = {o.id for node in block.nodes for o in node.outputs}
    others = set(state.teacher.nodes).difference(block.nodes)
    used = [v for node in others for v in node.inputs] + [*state.teacher.outputs]
    made = {v.id: v for v in used if v.id in own}
    images = _images(state)
    read = [v for node in block.nodes for v in node.inputs if v.id in images]
    like = [v for v in read if [v.shape] == [x.shape for x in made.values()]]
    alike = like or [v for v in read if [len(v.shape)] == [len(x.shape) for x in made.values()]]
    if not alike:
        raise AlignmentError.at(
            block.nodes[0], None, f"the student has no counterpart for {block.module!r}"
        )
    (result,), image = made.values(), images[alike[0].id]
    pair = state.pair(alike[0], image)
    state.start(result, image, pair if like else _with_sizes_of(result, image, pair, block))
    state.left_out.append(block.module)
    if block.residual:
        reason = "the student has fewer blocks here; this one of the teacher is left out"
    else:
        maker = state.student.producers.get(image.id)
        there = "the input" if maker is None else f"what {_where(maker)!r} makes"
        reason = (
            f"the student has no such layer; the teacher's is left out, and {there} in the student stands for its "
            "result. Give the student the layer too"
        )
    state.inexact_reasons[f"{block.module}: {reason}"] = None


def _with_sizes_of(result: Value, image: Value, pair: Pair, block: Block) -> Pair:
    """The pair of the result of a layer that is left out and a value of other units. Only equal axes correspond."""
    try:
        axes = [
            axis if axis.size == size else Axis(Term(*size))
            for axis, size in zip(
                pair.axes, zip(result.shape, image.shape, strict=True), strict=True
            )
        ]
    except Mismatch as error:
        raise AlignmentError.at(
            block.nodes[0],
            None,
            f"the student has no counterpart for {block.module!r}, and {error}",
        ) from error
    return Pair(tuple(axes))


def _images(state: Correspondence) -> dict[int, Value]:
    """The student's latest value that stands for each of the teacher's."""
    makers = state.student.producers
    return {
        t.id: next(o for o in makers[s].outputs if o.id == s)
        for s, t in state.twins.items()
        if s in makers
    }


def _where(node: Node) -> str:
    return node.module or "the root module"
