"""Operations that move, join and cut axes without touching values."""

import math
from collections.abc import Sequence

from phiopt.growth.axes import (
    Mismatch,
    Origin,
    Size,
    Term,
    cat,
    picked,
    prod,
    split_cat,
    split_prod,
)
from phiopt.growth.correspond import Axis, Pair
from phiopt.growth.operations import Call, register_rule
from phiopt.growth.options import difference
from phiopt.growth.trace import Value


def origins(axes: Sequence[Axis]) -> frozenset[Origin]:
    """The tensors that make any of these axes."""
    return frozenset[Origin]().union(*(a.origins for a in axes))


def joined(axes: Sequence[Axis]) -> Axis:
    """The row-major product of axes."""
    return Axis(prod([a.term for a in axes]), origins(axes))


def factored(axis: Axis, sizes: Sequence[Size]) -> list[Axis]:
    """The row-major factors of an axis."""
    return [Axis(t, axis.origins) for t in split_prod(axis.term, sizes)]


@register_rule(
    "view", "_reshape_alias", "reshape", "flatten", "unflatten", "as_strided", "view_copy"
)
def view(call: Call) -> None:
    x = call.pair("self")
    axes = reshape(x.axes, call.out())
    call.set(axes, scales=_scaling(x, axes))


def _scaling(x: Pair, axes: Sequence[Axis]) -> Axis | None:
    """Which of the regrouped ``axes`` takes the place of the one that ``x`` is linear in; it may lie further back."""
    made = [a for a in axes if a.origins and a.grown]
    return made[-1] if x.scales is not None and made else x.scales


def reshape(axes: Sequence[Axis], sizes: Sequence[Size]) -> list[Axis]:
    """Regroup axes row-major: the smallest runs whose sizes multiply to the same on both sides correspond."""
    out: list[Axis] = []
    i = j = 0
    while i < len(axes) or j < len(sizes):
        run, targets = _run(axes, sizes, i, j)
        i, j = i + run, j + targets
        whole, wanted = axes[i - run : i], sizes[j - targets : j]
        if [a.size for a in whole] == list(wanted):
            out.extend(whole)
        else:
            out.extend(factored(joined(whole), wanted))
    return out


def _run(axes: Sequence[Axis], sizes: Sequence[Size], i: int, j: int) -> tuple[int, int]:
    """How many axes from ``i`` and sizes from ``j`` on hold equally many coordinates."""
    have, want, m, n = (1, 1), (1, 1), 0, 0
    while True:
        if have == want and (m or n) and ((m and n) or _only_ones(axes, sizes, i + m, j + n)):
            return m, n
        if (have <= want and i + m < len(axes)) or j + n >= len(sizes):
            if i + m >= len(axes):
                raise Mismatch("a view regroups the teacher's and the student's axes differently")
            size = axes[i + m].size
            have, m = (have[0] * size[0], have[1] * size[1]), m + 1
        else:
            size = sizes[j + n]
            want, n = (want[0] * size[0], want[1] * size[1]), n + 1


def _only_ones(axes: Sequence[Axis], sizes: Sequence[Size], i: int, j: int) -> bool:
    return i == len(axes) or j == len(sizes)


@register_rule("permute")
def permute(call: Call) -> None:
    x = call.pair("self")
    call.set([x.axes[d] for d in call.dims("dims", len(x.axes))], scales=x.scales)


@register_rule("transpose", "swapaxes")
def transpose(call: Call) -> None:
    x = call.pair("self")
    axes = list(x.axes)
    a, b = call.dim("dim0", len(axes)), call.dim("dim1", len(axes))
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    call.set(axes, scales=x.scales)


@register_rule("t")
def t(call: Call) -> None:
    x = call.pair("self")
    call.set(x.axes[::-1], scales=x.scales)


@register_rule("unsqueeze")
def unsqueeze(call: Call) -> None:
    x = call.pair("self")
    axes = list(x.axes)
    axes.insert(call.dim("dim", len(axes) + 1), Axis(Term(1, 1)))
    call.set(axes, scales=x.scales)


@register_rule("squeeze")
def squeeze(call: Call) -> None:
    x = call.pair("self")
    rank = len(x.axes)
    dims = call.dims("dim", rank) if "dim" in call.t.arguments else list(range(rank))
    call.set(
        [a for d, a in enumerate(x.axes) if d not in dims or a.size != (1, 1)], scales=x.scales
    )


@register_rule("expand")
def expand(call: Call) -> None:
    x = call.pair("self")
    axes = [Axis(Term(*size)) for size in call.out()]
    for i, axis in enumerate(reversed(x.axes), start=1):
        if axis.size == axes[-i].size:
            axes[-i] = axis
    call.set(axes, scales=x.scales)


@register_rule("repeat")
def repeat(call: Call) -> None:
    x = call.pair("self")
    times = list(zip(*call.both("repeats"), strict=True))
    lead = len(times) - len(x.axes)
    axes = [Axis(Term(*n)) for n in times[:lead]]
    for n, axis in zip(times[lead:], x.axes, strict=True):
        axes.append(axis if n == (1, 1) else joined([Axis(Term(*n)), axis]))
    call.set(axes)


@register_rule("cat", "concatenate")
def concatenate(call: Call) -> None:
    """Tensors that only the student concatenates, as a deeper dense block does, are new coordinates."""
    pairs = _listed(call)
    known = [p for p in pairs if isinstance(p, Pair)]
    dim = call.dim("dim", len(known[0].axes))
    axes = list(known[0].axes)
    for other in known[1:]:
        axes = [a if d == dim else call.join(a, other.axes[d]) for d, a in enumerate(axes)]
    axes[dim] = _concatenated(
        [p.axes[dim] if isinstance(p, Pair) else Axis(Term(0, p.shape[dim])) for p in pairs]
    )
    call.set(axes)


def _listed(call: Call) -> list[Pair | Value]:
    """The concatenated pairs, and the student's own values where it has more."""
    ts, ss = call.both("tensors")
    if len(ts) == len(ss):
        return list(call.listed("tensors"))
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
    return Axis(cat([a.term for a in axes]), origins(axes))


@register_rule("stack")
def stack(call: Call) -> None:
    pairs = call.listed("tensors")
    axes = list(pairs[0].axes)
    for other in pairs[1:]:
        axes = [call.join(a, b) for a, b in zip(axes, other.axes, strict=True)]
    axes.insert(call.dim("dim", len(axes) + 1), Axis(Term(len(pairs), len(pairs))))
    call.set(axes)


@register_rule("split", "chunk", "tensor_split", "split_copy")
def split(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    sizes = [call.out(i)[dim] for i in range(len(call.t.outputs))]
    for i, piece in enumerate(split_cat(x.axes[dim].term, sizes)):
        _replace(call, x, dim, Axis(piece, x.axes[dim].origins), i)


@register_rule("glu")
def glu(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    half = call.out()[dim]
    values, gates = split_cat(x.axes[dim].term, [half, half])
    made = Axis(values, x.axes[dim].origins)
    call.set([*x.axes[:dim], call.join(made, Axis(gates)), *x.axes[dim + 1 :]])


@register_rule("unbind")
def unbind(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    for i in range(len(call.t.outputs)):
        pick(call, x, dim, i, i)


@register_rule("select")
def select(call: Call) -> None:
    x = call.pair("self")
    t, s = call.both("index")
    dim = call.dim("dim", len(x.axes))
    size = x.axes[dim].size
    old, new = t % size[0], s % size[1]
    if not x.axes[dim].moved and old != new:
        raise Mismatch(difference(call.t, call.s, "index"))
    if x.axes[dim].moved:
        try:  # the teacher's coordinate sits at the student's
            rest = size[0] - old - 1, size[1] - new - 1
            split_cat(x.axes[dim].term, [(old, new), (1, 1), rest])
        except Mismatch:
            call.remark(f"select of coordinate {old} in the teacher but {new} in the student")
    pick(call, x, dim, old if old == new else 0)


def pick(call: Call, x: Pair, dim: int, index: int, output: int = 0) -> None:
    """Drop axis ``dim`` by taking its coordinate ``index``."""
    lead = x.axes[dim].term
    rest = [
        Axis(picked(a.term, lead, index), a.origins) for a in (*x.axes[:dim], *x.axes[dim + 1 :])
    ]
    call.set(rest, output, scales=_scaling(x, rest))


@register_rule("constant_pad_nd", "pad")
def constant_pad(call: Call) -> None:
    x = call.pair("self")
    axes = list(x.axes)
    margins = list(zip(*call.both("pad"), strict=True))
    for i, (low, high) in enumerate(zip(margins[::2], margins[1::2], strict=True), start=1):
        if low == high == (0, 0):
            continue
        if min(*low, *high) < 0:  # cropped
            if low[0] != low[1] or high[0] != high[1]:
                raise Mismatch(difference(call.t, call.s, "pad"))
            axes[-i] = Axis(Term(*call.out()[-i]))
        else:
            axes[-i] = _concatenated([Axis(Term(*low)), axes[-i], Axis(Term(*high))])
    call.set(axes)


def _replace(call: Call, x: Pair, dim: int, axis: Axis, i: int = 0) -> None:
    axes = list(x.axes)
    axes[dim] = axis
    call.set(axes, i, scales=x.scales)


@register_rule("slice")
def slice_(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    axis, step = x.axes[dim], call.const("step")
    ends = zip(call.both("start"), call.both("end"), axis.size, strict=True)
    (t0, t1), (s0, s1) = (slice(start, end).indices(size)[:2] for start, end, size in ends)
    if not axis.moved and call.out()[dim][0] == call.out()[dim][1]:
        if t0 != s0:
            raise Mismatch(difference(call.t, call.s, "start"))
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
    _replace(call, x, dim, Axis(piece, axis.origins))


@register_rule("roll", "flip")
def reorder(call: Call) -> None:
    """Only axes that neither grow nor are reordered may change their order."""
    x = call.pair("self")
    for dim in call.dims("dims", len(x.axes)):
        if x.axes[dim].moved:
            raise Mismatch(f"{call.t.name} along axis {dim}, which grows or is reordered")
    _check_shifts(call, x)
    call.set(x.axes, scales=x.scales)


def _check_shifts(call: Call, x: Pair) -> None:
    """A shift once around is none; without axes it is one of all coordinates in their order."""
    if call.t.name != "roll":
        return
    shifts = call.both("shifts")
    dims = call.dims("dims", len(x.axes)) if call.t.arguments["dims"] else []
    sizes = [x.axes[d].size[0] for d in dims] or [math.prod(a.size[0] for a in x.axes)]
    if any((t - s) % max(n, 1) for t, s, n in zip(*shifts, sizes, strict=True)):
        raise Mismatch(difference(call.t, call.s, "shifts"))


@register_rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> None:
    x = call.pair("self")
    groups = call.both("groups")
    channel = x.axes[1]
    rest = channel.size[0] // groups[0], channel.size[1] // groups[1]
    _replace(call, x, 1, joined(factored(channel, [groups, rest])[::-1]))


@register_rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> None:
    x = call.pair("self")
    r = call.const("upscale_factor")
    *lead, c, h, w = x.axes
    c, rh, rw = factored(c, [(c.size[0] // r**2, c.size[1] // r**2), (r, r), (r, r)])
    call.set([*lead, c, joined([h, rh]), joined([w, rw])])


@register_rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> None:
    x = call.pair("self")
    r = call.const("downscale_factor")
    *lead, c, h, w = x.axes
    h, rh = factored(h, [(h.size[0] // r, h.size[1] // r), (r, r)])
    w, rw = factored(w, [(w.size[0] // r, w.size[1] // r), (r, r)])
    call.set([*lead, joined([c, rh, rw]), h, w])
