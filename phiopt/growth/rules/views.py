"""Views: operations that regroup, order or repeat the axes of one tensor."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from phiopt.growth.axes import Mismatch, ParameterAxis, Size, Term, followed, prod, sized
from phiopt.growth.call import Call
from phiopt.growth.catalogue import Facts, alias
from phiopt.growth.graph import Node
from phiopt.growth.operations import register_rule
from phiopt.growth.pairs import Axis, Pair
from phiopt.growth.unify import split_prod


def source_parameters(axes: Sequence[Axis]) -> frozenset[ParameterAxis]:
    """The axes of parameters that make any of these axes."""
    return frozenset[ParameterAxis]().union(*(a.source_parameters for a in axes))


def joined(axes: Sequence[Axis]) -> Axis:
    """The row-major product of axes."""
    return Axis(prod([a.term for a in axes]), source_parameters(axes))


def factored(axis: Axis, sizes: Sequence[Size]) -> list[Axis]:
    """The row-major factors of an axis. A factor of one coordinate tells no rows apart."""
    return [
        Axis(t) if t.size == (1, 1) else Axis(t, axis.source_parameters)
        for t in split_prod(axis.term, sizes)
    ]


def strides(node: Node) -> Any:
    """The meaning of ``stride``: ``None`` for the strides of a contiguous tensor, which follow from its shape.

    Else, for each axis of more than one coordinate, the axis of the tensor whose steps it takes, and how many at once.
    """
    pairs = list(zip(node.arguments["size"], node.arguments["stride"], strict=True))
    given = node.inputs[0].strides
    if given is None and all(
        step == below
        for (n, step), below in zip(pairs, _steps(node.arguments["size"]), strict=True)
        if n != 1
    ):
        return None
    shape = node.inputs[0].shape
    below = {step: d for d, step in enumerate(given or _steps(shape)) if shape[d] != 1}
    out: list[Any] = []
    for n, step in pairs:
        unit = max((u for u in below if step and step % u == 0), default=None)
        out.append(None if n == 1 or unit is None else (below[unit], step // unit))
    return out


def _steps(shape: Sequence[int]) -> list[int]:
    """The strides of a contiguous tensor."""
    steps = [1]
    for n in reversed(shape[1:]):
        steps.insert(0, steps[0] * n)
    return steps[: len(shape)]


def in_output(option: str) -> Callable[[Node], int]:
    """The meaning of an axis of the output, counted from the front."""
    return lambda node: node.arguments[option] % len(node.outputs[0].shape)


def in_order(option: str) -> Callable[[Node], list[int]]:
    """The meaning of axes whose order counts, counted from the front."""
    return lambda node: [d % len(node.inputs[0].shape) for d in node.arguments[option]]


alias("_unsafe_view", "reshape", "_reshape_alias", of="view")
VIEW = Facts(linear=True, regroups=True, moves=True)


@register_rule("view", facts=VIEW)
@register_rule("flatten", "unflatten", "view_copy")
def view(call: Call) -> None:
    x = call.pair("self")
    axes = reshape(x.axes, call.out())
    call.set(axes, scales=scaling(x, axes))


@register_rule("as_strided", facts=Facts(meanings={"stride": strides}))
def as_strided(call: Call) -> None:
    """A view, or windows that overlap. Windows over some axes leave the others as they are."""
    x = call.pair("self")
    call.const("stride")
    taken = strides(call.s)
    if taken is None:
        view(call)
        return
    axes, whole = [Axis(Term(*size)) for size in call.out()], set()
    for d, (source, steps) in ((d, given) for d, given in enumerate(taken) if given is not None):
        if steps == 1 and x.axes[source].size == axes[d].size:
            axes[d] = x.axes[source]
            whole.add(source)
    windows = [a for d, a in enumerate(x.axes) if d not in whole]
    if any(a.moved for a in windows) or any(a.grown for a in axes if a not in x.axes):
        raise Mismatch("windows overlap along an axis that grows or is reordered")
    call.set(axes, scales=x.scales)


def scaling(x: Pair, axes: Sequence[Axis]) -> Axis | None:
    """The axis of rows in which a value is linear after its axes are regrouped to ``axes``.

    If that axis is one of those that are regrouped, the last one that takes its place is it. An axis that was summed
    over before stays: the heads of packed queries, keys and values scale all three, the width of the keys only them.
    """
    if x.scales is None:
        return None
    scaled = followed(x.scales.term)
    before, after = ([followed(a.term) is scaled for a in group] for group in (x.axes, axes))
    made = [a for a in axes if a.source_parameters and a.grown]
    return made[-1] if made and any(before) and not any(after) else x.scales


def reshape(axes: Sequence[Axis], sizes: Sequence[Size]) -> list[Axis]:
    """Regroup axes row-major. The smallest runs of axes and of sizes with equal products correspond."""
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
    """The numbers of axes from ``i`` and of sizes from ``j`` whose products are equal."""
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


@register_rule("permute", facts=replace(VIEW, meanings={"dims": in_order("dims")}))
def permute(call: Call) -> None:
    x = call.pair("self")
    call.set([x.axes[d] for d in call.dims("dims", len(x.axes))], scales=x.scales)


@register_rule("transpose", facts=VIEW)
@register_rule("swapaxes")
def transpose(call: Call) -> None:
    x = call.pair("self")
    axes = list(x.axes)
    a, b = call.dim("dim0", len(axes)), call.dim("dim1", len(axes))
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    call.set(axes, scales=x.scales)


@register_rule("t", facts=VIEW)
def t(call: Call) -> None:
    x = call.pair("self")
    call.set(x.axes[::-1], scales=x.scales)


@register_rule("unsqueeze", facts=replace(VIEW, meanings={"dim": in_output("dim")}))
def unsqueeze(call: Call) -> None:
    x = call.pair("self")
    axes = list(x.axes)
    axes.insert(call.dim("dim", len(axes) + 1), Axis(Term(1, 1)))
    call.set(axes, scales=x.scales)


@register_rule("squeeze", facts=VIEW)
def squeeze(call: Call) -> None:
    x = call.pair("self")
    rank = len(x.axes)
    dims = call.dims("dim", rank) if "dim" in call.t.arguments else list(range(rank))
    call.set(
        [a for d, a in enumerate(x.axes) if d not in dims or a.size != (1, 1)], scales=x.scales
    )


@register_rule("expand", facts=VIEW)
def expand(call: Call) -> None:
    x = call.pair("self")
    axes = [Axis(sized(*size)) for size in call.out()]
    for i, axis in enumerate(reversed(x.axes), start=1):
        if axis.size == axes[-i].size:
            axes[-i] = axis
    call.set(axes, scales=x.scales)


@register_rule("repeat", facts=Facts(regroups=True, moves=True))
def repeat(call: Call) -> None:
    x = call.pair("self")
    times = list(zip(*call.both("repeats"), strict=True))
    lead = len(times) - len(x.axes)
    axes = [Axis(Term(*n)) for n in times[:lead]]
    for n, axis in zip(times[lead:], x.axes, strict=True):
        axes.append(axis if n == (1, 1) else joined([Axis(Term(*n)), axis]))
    call.set(axes)
