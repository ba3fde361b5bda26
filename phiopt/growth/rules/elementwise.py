"""Operations that act on each coordinate. Operands are broadcast, and their axes equated."""

import math
from typing import Any

from phiopt.growth.axes import Term
from phiopt.growth.call import Call
from phiopt.growth.catalogue import Facts, alias
from phiopt.growth.factors import rescale
from phiopt.growth.graph import Value
from phiopt.growth.operations import POINTWISE, register_rule
from phiopt.growth.optional import paired
from phiopt.growth.options import same_option
from phiopt.growth.pairs import Axis, Pair


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
    made = [a for a in axes if a.source_parameters]
    # The sum of a product and its bias is linear in the rows of both.
    biases = [p for p in operands if p.weight]
    sums = (
        call.t.name == "add"
        and bool(biases)
        and all(a.source_parameters for p in biases for a in p.axes[-1:])
        and any(p.scales for p in operands)
    )
    call.set(axes, scales=made[-1] if sums and made else None)
    for i in range(1, len(call.t.outputs)):  # results for the backward pass
        call.set([Axis(Term(*size)) for size in call.out(i)], i)


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
    scales = None if rounded else operands[0].scales
    if not isinstance(t, Value) and not same_option(call.t, call.s, "other"):
        reason = f"a constant factor is {t} in the teacher but {s} in the student; give the student the teacher's"
        where_and_why = f"{call.s.module or 'the root module'}: {reason}"
        ratio = _ratio(call.t.name, t, s)
        value = call.s.arguments["self"]
        if ratio is None or not rescale(call.state, value, scales, ratio, where_and_why):
            call.inexact(reason)
    squared = call.t.name == "mul" and call.t.arguments["self"] == call.t.arguments["other"]
    call.set(axes, scales=scales, squared=squared)


def _ratio(name: str, t: Any, s: Any) -> float | None:
    """The factor that makes the student's constant the teacher's; ``None`` if there is none."""
    if isinstance(t, complex) or isinstance(s, complex) or not t or not s:
        return None
    ratio = t / s if name == "mul" else s / t
    return ratio if math.isfinite(ratio) else None
