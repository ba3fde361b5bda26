"""Operations over positions: convolutions, pooling, interpolation, patches."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from phiopt.growth.axes import Indices, Mismatch, Size, Term, fixed, prod
from phiopt.growth.call import Call
from phiopt.growth.catalogue import Facts
from phiopt.growth.graph import Node
from phiopt.growth.index_map import index_map
from phiopt.growth.operations import register_rule
from phiopt.growth.options import difference
from phiopt.growth.pairs import Axis, Pair
from phiopt.growth.unify import find, split_prod, unify
from phiopt.lift import nearest_indices

_BEYOND = "positions beyond the teacher's input reach its own through padding, pooling or bias"


def slide(call: Call, axis: Axis, out: Size, scale: float, shift: float = 0.0) -> Axis:
    """The axis of output positions, if input position p becomes output position ``scale p + shift``."""
    if out[0] == out[1]:
        if axis.grown:
            call.inexact(_BEYOND)
        elif axis.moved:
            call.inexact("the lift moves positions, which are no longer beside their neighbours")
        return Axis(Term(*out))
    given = index_map(axis.term)
    unify(axis.term, fixed(given, axis.size[1], external=True))
    call.inexact(_BEYOND)
    if np.array_equal(given, given[0] + np.arange(len(given))):
        start = min(max(int(np.floor(scale * given[0] + shift)), 0), out[1] - out[0])
        return Axis(fixed(start + np.arange(out[0]), out[1], external=True))
    return Axis(fixed(nearest_indices(*out), out[1], external=True))


def _listed(value: int | list[int], n: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values


@register_rule(
    "convolution", "_convolution", "convolution_overrideable",
    facts=Facts(product=True, inserted="identity"),
)  # fmt: skip
def convolution(call: Call) -> None:
    _check_groups(call)
    x, weight = call.pair("input"), call.pair("weight")
    n = len(weight.axes) - 2
    transposed = call.const("transposed")
    batched = len(x.axes) == n + 2
    channel = x.axes[1 if batched else 0]
    out_channel = _channels(call, channel, weight, transposed)
    if call.has("bias"):
        out_channel = call.join(out_channel, call.pair("bias").axes[0])
    spatial = _positions(call, x.axes[-n:], weight, transposed)
    call.set([*x.axes[: 1 if batched else 0], out_channel, *spatial], scales=out_channel)


def _check_groups(call: Call) -> None:
    """Check that groups of the student read as many channels as those of the teacher.

    Raises:
        Mismatch: They read fewer.
    """
    groups = call.both("groups")
    t, s = (node.arguments["weight"].shape[1] for node in (call.t, call.s))
    if groups[0] < groups[1] and t > s:
        raise Mismatch(
            f"{groups[0]} groups that read {t} channels each in the teacher but {groups[1]} that read {s} each in the "
            "student, so that none reads what one of the teacher's reads",
            f"Give the student groups of at least {t} channels, or as many groups as the teacher has",
        )


def _channels(call: Call, channel: Axis, weight: Pair, transposed: bool) -> Axis:
    """Equate the input channels, group by group. Returns the axis of the output channels."""
    groups = call.both("groups")
    rows, columns = weight.axes[0], weight.axes[1]
    per_group = rows.size[0] // groups[0], rows.size[1] // groups[1]
    if groups[0] > groups[1] and not transposed:
        return _regroup(call, channel, weight)
    # The groups correspond one by one. A transposed kernel has its input channels first.
    outer, _ = split_prod(rows.term, [groups, per_group])
    if transposed:
        unify(channel.term, rows.term)
        call.mark_input_axes(rows.source_parameters)
        return Axis(prod([outer, columns.term]), rows.source_parameters | columns.source_parameters)
    reads = split_prod(channel.term, [groups, columns.size])
    unify(reads[0], outer)
    unify(reads[1], columns.term)
    call.mark_input_axes(columns.source_parameters)
    return Axis(rows.term, rows.source_parameters)


def _regroup(call: Call, channel: Axis, weight: Pair) -> Axis:
    """Put the teacher's groups into fewer groups of the student. Those that share one do not read their own channels.

    Returns the axis of the output channels.
    """
    groups = call.both("groups")
    rows, columns = weight.axes[0], weight.axes[1]
    per_group = rows.size[0] // groups[0], rows.size[1] // groups[1]
    unify(channel.term, fixed(_dealt(groups, columns.size), channel.size[1]))
    unify(rows.term, fixed(_dealt(groups, per_group), rows.size[1]))
    unify(columns.term, fixed(np.arange(columns.size[0]), columns.size[1]))
    for axis in (rows, columns):  # a copy in another group would read other channels
        find(axis.term).distinct = True
    call.mark_input_axes(columns.source_parameters)
    call.inexact(
        f"{groups[0]} groups of {columns.size[0]} channels in the teacher but {groups[1]} of {columns.size[1]} in the "
        f"student; only {groups[1]} of them read their own channels"
    )
    return Axis(rows.term, rows.source_parameters)


def _dealt(groups: Size, width: Size) -> Indices:
    """The student's channel of each of the teacher's, if the teacher's groups are dealt to the student's in turn.

    Groups for which there is no room side by side take the channels that are left.
    """
    old, new = width
    number, at = np.divmod(np.arange(groups[0] * old), old)
    turn, group = np.divmod(number, groups[1])
    out = np.where((turn + 1) * old <= new, group * new + turn * old + at, -1)
    out[out < 0] = np.setdiff1d(np.arange(groups[1] * new), out)[: (out < 0).sum()]
    return out


def _positions(call: Call, axes: tuple[Axis, ...], weight: Pair, transposed: bool) -> list[Axis]:
    """Centre the teacher's kernel in the student's. Returns the axes of the output positions."""
    n = len(axes)
    stride, dilation = _listed(call.const("stride"), n), _listed(call.const("dilation"), n)
    pads = [_listed(p, n) for p in call.both("padding")]
    out = []
    for i, axis in enumerate(axes):
        kernel = weight.axes[2 + i]
        lead = (kernel.size[1] - kernel.size[0]) // 2
        if kernel.grown:
            unify(
                kernel.term, fixed(lead + np.arange(kernel.size[0]), kernel.size[1], external=True)
            )
            call.mark_input_axes(kernel.source_parameters)
        shift = pads[1][i] - lead * dilation[i] - pads[0][i]
        if shift and not (kernel.grown or axis.grown):
            raise difference(call.t, call.s, "padding").mismatch()
        if kernel.grown and shift:
            call.inexact("a larger kernel without the padding that keeps its centre")
        size = call.out()[-n + i]
        if kernel.size == (1, 1) and stride[i] == 1 and shift == 0 and size == axis.size:
            out.append(axis)
            continue
        if transposed:
            out.append(slide(call, axis, size, stride[i], -shift))
        else:
            out.append(slide(call, axis, size, 1 / stride[i], shift / stride[i]))
    return out


@register_rule(
    "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
)  # fmt: skip
def pool(call: Call) -> None:
    x = call.pair("self")
    n = next(d for d in (1, 2, 3) if f"pool{d}d" in call.t.name)
    kernel = _listed(call.const("kernel_size"), n)
    stride = _listed(call.const("stride") or kernel, n)
    spatial = [
        a if (k, s, a.size) == (1, 1, size) else slide(call, a, size, 1 / s)
        for a, size, k, s in zip(x.axes[-n:], call.out()[-n:], kernel, stride, strict=True)
    ]
    for i in range(len(call.t.outputs)):
        call.set([*x.axes[:-n], *spatial], i, scales=x.scales if "avg" in call.t.name else None)


def scale_along(option: str, dim: int) -> Callable[[Node], Any]:
    """The meaning of a resampling factor along axis ``dim``. If the operation does not read it, the sizes give it."""

    def meaning(node: Node) -> Any:
        given = node.arguments.get(option)
        if given is None or node.arguments.get("align_corners"):
            return node.outputs[0].shape[dim] / node.inputs[0].shape[dim]
        return given

    return meaning


SCALES = {
    option: scale_along(option, dim)
    for option, dim in {"scales": -1, "scales_w": -1, "scales_h": -2, "scales_d": -3}.items()
}


@register_rule(
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", facts=Facts(meanings=SCALES),
)  # fmt: skip
@register_rule(
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "adaptive_avg_pool1d", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d",
)  # fmt: skip
def resample(call: Call) -> None:
    """The positions of the output lie on a new grid. The nearest points correspond."""
    x = call.pair("self" if "self" in call.t.arguments else "input")
    n = next(d for d in (1, 2, 3) if f"{d}d" in call.t.name)
    lead = len(x.axes) - n
    axes = _on_grid(call, x.axes[lead:], call.out()[lead:])
    for i in range(len(call.t.outputs)):
        call.set([*x.axes[:lead], *axes], i)


@register_rule("im2col")
def im2col(call: Call) -> None:
    """Patches of images: (batch, channel and place within the patch, patch)."""
    x = call.pair("self")
    k = int(np.prod(call.const("kernel_size")))
    channel = x.axes[-3]
    inside = Axis(prod([channel.term, Term(k, k)]), channel.source_parameters)
    call.set([*x.axes[:-3], inside, *_on_grid(call, x.axes[-2:], call.out()[-1:])])


@register_rule("col2im")
def col2im(call: Call) -> None:
    """Patches are added where they lie in the images, as `nn.Fold` does. It is the adjoint of ``im2col``."""
    x = call.pair("self")
    k = int(np.prod(call.const("kernel_size")))
    t, s = x.axes[-2].size
    channel, _ = split_prod(x.axes[-2].term, [(t // k, s // k), (k, k)])
    made = Axis(channel, x.axes[-2].source_parameters)
    call.set([*x.axes[:-2], made, *_on_grid(call, x.axes[-1:], call.out()[-2:])])


def _on_grid(call: Call, before: Sequence[Axis], sizes: Sequence[Size]) -> list[Axis]:
    """The axes of positions that lie on another grid. Of a grid that grows, the nearest points correspond."""
    if any(axis.moved for axis in before) or any(t != s for t, s in sizes):
        call.inexact(f"{call.t.name} over positions that grow or move")
    return [Axis(fixed(nearest_indices(*size), size[1], external=True)) for size in sizes]


def own_size(node: Node) -> Any:
    """The meaning of ``size``, the length of a window, which does not follow from the shapes."""
    return node.arguments["size"]


@register_rule("unfold", facts=Facts(meanings={"size": own_size}))
def unfold(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dimension", len(x.axes))
    axes = [a if d != dim else Axis(Term(*call.out()[d])) for d, a in enumerate(x.axes)]
    call.set([*axes, Axis(Term(*call.out()[-1]))])
