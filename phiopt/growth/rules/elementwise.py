"""Operations that act on each coordinate. Operands are broadcast, and their axes equated."""

import math
from collections.abc import Sequence
from typing import Any

from phiopt.growth.axes import Term
from phiopt.growth.call import Call
from phiopt.growth.catalogue import Facts, alias
from phiopt.growth.graph import Node, Value
from phiopt.growth.operations import POINTWISE, register_rule
from phiopt.growth.optional import paired
from phiopt.growth.options import same_option
from phiopt.growth.pairs import Axis, Factor, Pair


def broadcast(call: Call, operands: list[Pair]) -> list[Axis]:
    """The axes of a broadcast result. An axis of size one in both models stretches."""
    axes: list[Axis] = []
    for i, size in enumerate(reversed(call.out()), start=1):
        meeting = [p.axes[-i] for p in operands if len(p.axes) >= i and p.axes[-i].size == size]
        axis = meeting[0] if meeting else Axis(Term(*size))
        for other in meeting[1:]:
            axis = call.join(axis, other)
        if not meeting or any(
            len(p.axes) >= i and p.axes[-i].size not in (size, (1, 1)) for p in operands
        ):
            call.join(axis, Axis(Term(*size)))
            for p in operands:
                if len(p.axes) >= i and p.axes[-i].size not in (size, (1, 1)):
                    call.join(p.axes[-i], axis)
        axes.insert(0, axis)
    return axes


def tensors(call: Call) -> list[Pair]:
    return [call.state.pair(t, s) for t, s in paired(call.t, call.s)]


SOFTMAXES = ("_softmax", "_log_softmax", "softmax", "log_softmax")
CUMULATIVE = ("cumsum", "cumprod", "logcumsumexp")
ADD = Facts(
    linear=True,
    neutral={"other": 0.0, "self": 0.0},
    branches=("self", "other"),
    reverse="add",
)
alias("_safe_softmax", of="_softmax")


@register_rule(POINTWISE, "hardswish", "rrelu_with_noise", "log_sigmoid_forward")
@register_rule(*SOFTMAXES, *CUMULATIVE)
@register_rule("relu", "hardtanh", "clamp", "clamp_min", facts=Facts(inserted="idempotent"))
@register_rule("dropout", facts=Facts(inserted="nothing"))
@register_rule("masked_fill", facts=Facts(masks=("mask",)))
@register_rule("where", facts=Facts(masks=("condition",)))
@register_rule("_to_copy", facts=Facts(copies=True))  # recorded where it rounds
@register_rule("copy", "fill", "zero", facts=Facts(overwrites=True))
@register_rule("add", facts=ADD)
@register_rule("sub", facts=Facts(linear=True, neutral={"other": 0.0}, reverse="rsub"))
def pointwise(call: Call) -> None:
    operands = tensors(call)
    if call.t.name in SOFTMAXES + CUMULATIVE:
        axis = operands[0].axes[call.dim("dim", len(operands[0].axes))]
        if axis.grown and call.t.name in SOFTMAXES:
            call.inexact("softmax over a widened axis")
        elif axis.moved and call.t.name in CUMULATIVE:
            call.inexact(f"{call.t.name} over a widened axis; kept only by zero-out")
    axes = broadcast(call, operands)
    call.set(axes, scales=_sum_linear(call, axes, operands))
    if call.t.name in ("add", "sub", "rsub"):
        note_shift(call)
    for i in range(1, len(call.t.outputs)):  # results for the backward pass
        call.set([Axis(Term(*size)) for size in call.out(i)], i)


def _sum_linear(call: Call, axes: list[Axis], operands: list[Pair]) -> Axis | None:
    """The axis of rows in which a sum is linear: those in which every term is."""
    if call.t.name == "neg":
        return operands[0].scales
    if call.t.name not in ("add", "sub") or len(operands) < 2:
        return None
    made = [a for a in axes if a.source_parameters]
    biases = [p for p in operands if p.weight]
    if biases:  # a product and its bias
        rows = all(a.source_parameters for p in biases for a in p.axes[-1:])
        return made[-1] if rows and made and any(p.scales for p in operands) else None
    return joint_scales([p.scales for p in operands])


def joint_scales(scales: Sequence[Axis | None]) -> Axis | None:
    """The axis of rows in which several values are linear together; ``None`` if one of them is in none."""
    known = [a for a in scales if a is not None]
    if not known or len(known) < len(scales) or len({a.size for a in known}) > 1:
        return None
    return Axis(known[0].term, frozenset().union(*(a.source_parameters for a in known)))


def note_shift(call: Call) -> None:
    """Note a number that is added to a parameter, if every reader of the parameter adds the same."""
    trace, number = call.state.student, _added(call.s)
    parameters = [v for v in call.s.inputs if v.id in trace.tensors]
    if number is None or not parameters or number != _added(call.t):
        return
    readers = [n for n in trace.nodes if parameters[0] in n.inputs]
    place = call.state.by_student().get(trace.tensors[parameters[0].id])
    if place is not None and all(_added(n) == number for n in readers):
        place.shift = number


def _added(node: Node) -> float | None:
    """The number that an operation adds to its tensor, up to a sign of the whole; ``None`` if it does more."""
    if node.name not in ("add", "sub", "rsub") or len(node.inputs) != 1:
        return None
    numbers = [node.arguments.get(k) for k in ("self", "other")]
    number = next((x for x in numbers if isinstance(x, int | float)), None)
    if number is None or (node.name == "rsub" and node.arguments.get("alpha", 1) != 1):
        return None
    return float(number) * node.arguments.get("alpha", 1) * (1 if node.name == "add" else -1)


@register_rule("_prelu_kernel")
def prelu(call: Call) -> None:
    """One slope, or one for each channel. Slopes belong to units, and make none."""
    x = call.pair("self")
    axes = broadcast(call, [x, call.pair("weight")])
    call.set(
        [Axis(joined.term, a.source_parameters) for joined, a in zip(axes, x.axes, strict=True)]
    )


def made_by_factors(axes: list[Axis], operands: list[Pair]) -> list[Axis]:
    """The axes of a product with parameters. The parameters make its coordinates."""
    weights = [p for p in operands if p.weight]
    if len(weights) == len(operands):
        return axes
    out = list(axes)
    for pair in weights:
        for i, axis in enumerate(pair.axes[::-1], start=1):
            if axis.source_parameters and axis.size == axes[-i].size:
                out[-i] = Axis(axes[-i].term, axis.source_parameters)
    return out


@register_rule("pow", "square")
def power(call: Call) -> None:
    exponent = call.t.arguments.get("exponent", 2)
    call.set(broadcast(call, tensors(call)), squared=exponent == 2)


@register_rule("mul", facts=Facts(neutral={"other": 1.0, "self": 1.0}, reverse="mul"))
@register_rule("div", facts=Facts(neutral={"other": 1.0}))
def multiply(call: Call) -> None:
    """A product. The student's weights make up for another constant factor if the value is linear in them."""
    operands = tensors(call)
    axes = made_by_factors(broadcast(call, operands), operands)
    t, s = call.both("other")
    rounded = call.t.arguments.get("rounding_mode") is not None
    scales = None if rounded else _linear(axes, operands)
    if not isinstance(t, Value) and not same_option(call.t, call.s, "other"):
        reason = f"a constant factor is {t} in the teacher but {s} in the student; give the student the teacher's"
        where_and_why = f"{call.s.module or 'the root module'}: {reason}"
        ratio = _ratio(call.t.name, t, s)
        if ratio is None:
            call.inexact(reason)
        else:
            factor = Factor(call.s.arguments["self"], scales, ratio, where_and_why)
            call.state.factors.append(factor)
    squared = call.t.name == "mul" and call.t.arguments["self"] == call.t.arguments["other"]
    call.set(axes, scales=scales, squared=squared)


def _linear(axes: list[Axis], operands: list[Pair]) -> Axis | None:
    """The axis of rows in which a product is linear: those of a parameter in it, or those of an operand."""
    if any(p.weight and any(a.source_parameters for a in p.axes) for p in operands):
        return next((a for a in reversed(axes) if a.source_parameters), None)
    return next((p.scales for p in operands if p.scales), None)


def _ratio(name: str, t: Any, s: Any) -> float | None:
    """The factor that makes the student's constant the teacher's; ``None`` if there is none."""
    if isinstance(t, complex) or isinstance(s, complex) or not t or not s:
        return None
    ratio = t / s if name == "mul" else s / t
    return ratio if math.isfinite(ratio) else None
