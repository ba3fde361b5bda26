"""Operations that concatenate tensors, pad them, and take parts of them."""

import dataclasses
from collections.abc import Sequence

from phiopt.growth.axes import Mismatch, Term, cat, picked
from phiopt.growth.call import Call
from phiopt.growth.catalogue import Facts, alias, skipped
from phiopt.growth.graph import Node, Value
from phiopt.growth.operations import register_rule
from phiopt.growth.options import difference
from phiopt.growth.pairs import Axis, Pair
from phiopt.growth.rules.elementwise import joint_scales
from phiopt.growth.rules.views import in_output, scaling, source_parameters
from phiopt.growth.unify import split_cat, split_prod


@register_rule("cat", facts=Facts(linear=True, moves=True, joins=True))
@register_rule("concatenate")
def concatenate(call: Call) -> None:
    """Tensors that only the student has, as in a deeper dense block, are new coordinates."""
    pairs = _listed(call)
    known = [p for p in pairs if isinstance(p, Pair)]
    dim = call.dim("dim", len(known[0].axes))
    axes = list(known[0].axes)
    for other in known[1:]:
        axes = [a if d == dim else call.join(a, other.axes[d]) for d, a in enumerate(axes)]
    axes[dim] = _concatenated(
        [p.axes[dim] if isinstance(p, Pair) else Axis(Term(0, p.shape[dim])) for p in pairs]
    )
    call.set(axes, scales=_joined_scales(pairs, axes[dim], dim))


def _joined_scales(pairs: list[Pair | Value], whole: Axis, dim: int) -> Axis | None:
    """The axis of rows in which joined tensors are linear: the joined one if they are joined along it."""
    scales = [p.scales if isinstance(p, Pair) else None for p in pairs]
    joint = joint_scales(scales)
    along = [
        isinstance(p, Pair) and a is not None and a.term is p.axes[dim].term
        for p, a in zip(pairs, scales, strict=True)
    ]
    if joint is None or not any(along):
        return joint
    return Axis(whole.term, joint.source_parameters) if all(along) else None


def _listed(call: Call) -> list[Pair | Value]:
    """The concatenated pairs, and the values that only the student concatenates."""
    ts, ss = (
        [x for x in listed if not skipped(x.shape, node.outputs[0].shape)]
        for listed, node in zip(call.both("tensors"), (call.t, call.s), strict=True)
    )
    if len(ts) == len(ss):
        return [call.state.pair(t, s) for t, s in zip(ts, ss, strict=True)]
    waiting, out = list(ts), list[Pair | Value]()
    for s in ss:
        twin = call.state.twins.get(s.id)
        if waiting and twin == waiting[0]:
            out.append(call.state.pair(waiting.pop(0), s))
        else:
            out.append(s)
    if waiting or not any(isinstance(p, Pair) for p in out):
        raise Mismatch(
            f"{len(ts)} tensors in the teacher but {len(ss)} in the student, which do not correspond"
        )
    return out


def _concatenated(axes: Sequence[Axis]) -> Axis:
    return Axis(cat([a.term for a in axes]), source_parameters(axes))


@register_rule("stack", facts=Facts(linear=True, moves=True, meanings={"dim": in_output("dim")}))
def stack(call: Call) -> None:
    pairs = call.listed("tensors")
    axes = list(pairs[0].axes)
    for other in pairs[1:]:
        axes = [call.join(a, b) for a, b in zip(axes, other.axes, strict=True)]
    axes.insert(call.dim("dim", len(axes) + 1), Axis(Term(len(pairs), len(pairs))))
    call.set(axes, scales=joint_scales([p.scales for p in pairs]))


alias("unsafe_split", "split_with_sizes", "unsafe_split_with_sizes", of="split")
alias("unsafe_chunk", of="chunk")


@register_rule("split", "chunk", "tensor_split", facts=Facts(linear=True, moves=True))
@register_rule("split_copy")
def split(call: Call) -> None:
    """Pieces that only the student has, as in a block of more branches, are new coordinates."""
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    partners = {j: i for i, j in enumerate(call.numbers())}
    sizes = [
        call.out(partners[j], j)[dim] if j in partners else (0, piece.shape[dim])
        for j, piece in enumerate(call.s.outputs)
    ]
    pieces = split_cat(x.axes[dim].term, sizes)
    for j, i in partners.items():
        piece = Axis(pieces[j], x.axes[dim].source_parameters)
        along = x.scales is not None and x.scales.term is x.axes[dim].term
        axes = [piece if d == dim else axis for d, axis in enumerate(x.axes)]
        call.set(axes, i, scales=piece if along else x.scales, of_student=j)


@register_rule("glu")
def glu(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    half = call.out()[dim]
    values, gates = split_cat(x.axes[dim].term, [half, half])
    made = Axis(values, x.axes[dim].source_parameters)
    call.set([*x.axes[:dim], call.join(made, Axis(gates)), *x.axes[dim + 1 :]])


@register_rule("unbind", facts=Facts(linear=True, moves=True))
def unbind(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    for i in range(len(call.t.outputs)):
        pick(call, x, dim, i, i)


@register_rule("select", facts=Facts(linear=True, moves=True, part=("dim", "index")))
def select(call: Call) -> None:
    x = call.pair("self")
    t, s = call.both("index")
    dim = call.dim("dim", len(x.axes))
    size = x.axes[dim].size
    old, new = t % size[0], s % size[1]
    if not x.axes[dim].moved and old != new:
        raise difference(call.t, call.s, "index").mismatch()
    if x.axes[dim].moved:
        try:  # whether the student's coordinate holds the teacher's
            rest = size[0] - old - 1, size[1] - new - 1
            split_cat(x.axes[dim].term, [(old, new), (1, 1), rest])
        except Mismatch:
            call.inexact(f"select of coordinate {old} in the teacher but {new} in the student")
    pick(call, x, dim, old if old == new else 0)


def pick(call: Call, x: Pair, dim: int, index: int, output: int = 0) -> None:
    """Take coordinate ``index`` of axis ``dim``, which is dropped."""
    lead = x.axes[dim].term
    rest = [
        Axis(picked(a.term, lead, index), a.source_parameters)
        for a in (*x.axes[:dim], *x.axes[dim + 1 :])
    ]
    call.set(rest, output, scales=scaling(x, rest))


@register_rule("constant_pad_nd", facts=Facts(linear=True, moves=True))
@register_rule("pad")
def constant_pad(call: Call) -> None:
    x = call.pair("self")
    axes = list(x.axes)
    margins = list(zip(*call.both("pad"), strict=True))
    for i, (low, high) in enumerate(zip(margins[::2], margins[1::2], strict=True), start=1):
        if low == high == (0, 0):
            continue
        if min(*low, *high) < 0:  # cropped
            if low[0] != low[1] or high[0] != high[1]:
                raise difference(call.t, call.s, "pad").mismatch()
            axes[-i] = Axis(Term(*call.out()[-i]))
        else:
            axes[-i] = _concatenated([Axis(Term(*low)), axes[-i], Axis(Term(*high))])
    call.set(axes)


def replace_axis(call: Call, x: Pair, dim: int, axis: Axis, i: int = 0) -> None:
    axes = list(x.axes)
    axes[dim] = axis
    along = x.scales is not None and x.scales.term is x.axes[dim].term
    call.set(axes, i, scales=axis if along else x.scales)


def part_of_table(whole: Pair, node: Node) -> Pair:
    """The teacher's whole tensor against a part of the student's.

    This is how the table of a longer context is read on the teacher's input. PyTorch records no slice that takes all.
    """
    dim, step = node.arguments["dim"] % len(whole.axes), node.arguments["step"]
    old, new = whole.axes[dim].size
    start, end = slice(node.arguments["start"], node.arguments["end"]).indices(new)[:2]
    if step != 1:
        raise Mismatch(f"the student reads every {step}-th coordinate, the teacher all")
    pieces = split_cat(whole.axes[dim].term, [(0, start), (old, end - start), (0, new - end)])
    axes = list(whole.axes)
    axes[dim] = Axis(pieces[1], axes[dim].source_parameters)
    return dataclasses.replace(whole, axes=tuple(axes))


@register_rule(
    "slice",
    facts=Facts(linear=True, moves=True, part=("dim", "start"), against_whole=part_of_table),
)
def slice_(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    axis, step = x.axes[dim], call.const("step")
    ends = zip(call.both("start"), call.both("end"), axis.size, strict=True)
    (t0, t1), (s0, s1) = (slice(start, end).indices(size)[:2] for start, end, size in ends)
    if not axis.moved and call.out()[dim][0] == call.out()[dim][1]:
        if t0 != s0:
            raise difference(call.t, call.s, "start").mismatch()
        piece = axis.term if axis.size == call.out()[dim] else Term(*call.out()[dim])
    elif step == 1:
        rest = axis.size[0] - t1, axis.size[1] - s1
        piece = split_cat(axis.term, [(t0, s0), (t1 - t0, s1 - s0), rest])[1]
    elif axis.size[0] % step == axis.size[1] % step == 0 and t0 == s0 < step:
        piece = split_prod(axis.term, [(axis.size[0] // step, axis.size[1] // step), (step, step)])[
            0
        ]
    else:
        raise Mismatch(f"a slice with step {step} of an axis of {axis.size[0]} -> {axis.size[1]}")
    replace_axis(call, x, dim, Axis(piece, axis.source_parameters))
