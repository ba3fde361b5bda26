"""Normalisation layers. Statistics over an axis that grows demand something of new units."""

from dataclasses import replace

from phiopt.growth.axes import Term, prod
from phiopt.growth.call import Call
from phiopt.growth.catalogue import Facts
from phiopt.growth.operations import register_rule
from phiopt.growth.pairs import FRESH, MEAN, ZERO, Axis, Norm
from phiopt.growth.rules.views import source_parameters
from phiopt.growth.unify import split_prod


def parameters(call: Call, axis: Axis, *names: str) -> Axis:
    """Equate the per-channel tensors of a normalisation with the axis of the channels."""
    for name in names:
        if call.has(name):
            axis = call.join(axis, call.pair(name).axes[-1])
    return axis


@register_rule(
    "native_batch_norm", "batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training",
    facts=Facts(inserted="statistics"),
)  # fmt: skip
def batch_norm(call: Call) -> None:
    x = call.pair("input")
    own = not call.has("running_mean") or bool(call.t.arguments.get("training"))
    if own and any(axis.grown for d, axis in enumerate(x.axes) if d != 1):
        call.inexact("a mean and variance over an axis that grows, as in weight standardisation")
    channel = parameters(call, x.axes[1], "running_mean", "running_var")
    if call.has("weight"):  # its own parameters make the output
        channel = parameters(call, Axis(channel.term), "weight", "bias")
    scales = channel if call.has("weight") else None
    call.set([x.axes[0], channel, *x.axes[2:]], scales=scales)
    for i in range(1, len(call.t.outputs)):
        call.set([Axis(Term(t, s)) for t, s in call.out(i)], i)


@register_rule("native_layer_norm", "_fused_rms_norm", "rms_norm", "layer_norm")
def layer_norm(call: Call) -> None:
    x = call.pair("input")
    rank = len(call.t.arguments["normalized_shape"])
    lead, trail = x.axes[: len(x.axes) - rank], list(x.axes[len(x.axes) - rank :])
    made_by = source_parameters(trail)
    if call.has("weight"):  # its own parameters make the output
        trail = [Axis(a.term) for a in trail]
    for name in ("weight", "bias"):
        if call.has(name):
            trail = [call.join(a, b) for a, b in zip(trail, call.pair(name).axes, strict=True)]
    if any(a.grown for a in trail):
        kind, otherwise, keeps = (
            ("RMSNorm", ZERO, "mean square")
            if "rms" in call.t.name
            else ("LayerNorm", MEAN, "mean")
        )
        weight, bias = _name(call, "weight"), _name(call, "bias")
        term = prod([a.term for a in trail])
        norm = Norm(call.s.module, kind, term, otherwise, weight, bias, x.averages, keeps)
        call.state.norms.append(replace(norm, made_by=made_by))
    call.set([*lead, *trail], scales=trail[-1] if call.has("weight") and rank == 1 else None)
    for i in range(1, len(call.t.outputs)):
        call.set([*lead, *(Axis(Term(1, 1)) for _ in trail)], i)


@register_rule("native_group_norm", "group_norm")
def group_norm(call: Call) -> None:
    x = call.pair("input")
    channel = parameters(call, x.axes[1], "weight", "bias")
    groups = call.both("group") if "group" in call.t.arguments else call.both("num_groups")
    width = channel.size[0] // groups[0], channel.size[1] // groups[1]
    _, inside = split_prod(channel.term, [groups, width])
    if inside.t != inside.s:
        weight, bias = _name(call, "weight"), _name(call, "bias")
        call.state.norms.append(Norm(call.s.module, "GroupNorm", inside, FRESH, weight, bias))
    call.set([x.axes[0], channel, *x.axes[2:]])
    for i in range(1, len(call.t.outputs)):
        call.set([Axis(Term(t, s)) for t, s in call.out(i)], i)


def _name(call: Call, name: str) -> str | None:
    value = call.s.arguments.get(name)
    return call.state.student.tensors.get(value.id) if value is not None else None


@register_rule("_weight_norm_interface")
def weight_norm(call: Call) -> None:
    v, g = call.pair("v"), call.pair("g")
    axes = [a if b.size == (1, 1) else call.join(a, b) for a, b in zip(v.axes, g.axes, strict=True)]
    if any(a.grown for a, b in zip(v.axes, g.axes, strict=True) if b.size == (1, 1)):
        call.inexact("weight norm over the columns; kept only where new ones are zero (zero-out)")
    call.set(axes)
    call.set(g.axes, 1)
