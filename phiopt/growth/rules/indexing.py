"""Operations that pick coordinates by index."""

from collections.abc import Iterable

import numpy as np

from phiopt.growth.axes import Term, fixed, unify
from phiopt.growth.correspond import Axis, Pair
from phiopt.growth.operations import Call, register_rule
from phiopt.growth.trace import Value


def remark_places(call: Call, x: Pair, dims: Iterable[int]) -> None:
    """Which units an index picks is a value, which no trace holds; rows of a table are picked as those of an
    embedding are.
    """
    if not x.weight and any(x.axes[d].moved for d in dims):
        call.remark(f"{call.t.name} over a widened axis")


def place_rows(call: Call, rows: Axis, at: tuple[Value, Value]) -> None:
    """Rows of a table that the input's tokens pick go where ψ sends the tokens."""
    moves = call.state.moves
    if moves is None or moves.keeps_tokens or not rows.origins:
        return
    found = moves.rows((call.state.teacher, call.state.student), at, rows.size)
    if found.reason is not None:
        call.remark(f"which rows the lift's inputs look up cannot be followed: {found.reason}")
    elif not np.array_equal(found.settled(rows.size[1]), np.arange(rows.size[0])):
        unify(rows.term, fixed(found.settled(rows.size[1]), rows.size[1], external=True))


@register_rule("index_select")
def index_select(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    remark_places(call, x, [dim])
    place_rows(call, x.axes[dim], (call.t.arguments["index"], call.s.arguments["index"]))
    axes = list(x.axes)
    axes[dim] = Axis(Term(*call.out()[dim]), x.axes[dim].origins)
    call.set(axes)


@register_rule("index")
def index(call: Call) -> None:
    """``x[i, j]``: indexed axes, when adjacent, are replaced in place by the axes of the indices."""
    x = call.pair("self")
    given = [d for d, i in enumerate(call.t.arguments["indices"]) if isinstance(i, Value)]
    remark_places(call, x, given)
    for d in given:
        place_rows(call, x.axes[d], tuple(n.arguments["indices"][d] for n in (call.t, call.s)))
    kept = [a for d, a in enumerate(x.axes) if d not in given]
    adjacent = given == list(range(given[0], given[-1] + 1))
    start = given[0] if adjacent else 0
    picked = len(call.out()) - len(kept)
    new = [Axis(Term(*size)) for size in call.out()[start : start + picked]]
    call.set([*kept[:start], *new, *kept[start:]])


@register_rule("gather", "scatter", "scatter_add", "index_fill", "index_copy", "index_add")
def gather(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    remark_places(call, x, [dim])
    axes = [a if d != dim else Axis(Term(*call.out()[d])) for d, a in enumerate(x.axes)]
    call.set(axes)


@register_rule("topk", "sort")
def sort(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    if x.axes[dim].moved:
        call.remark(f"{call.t.name} over a widened axis")
    for i in range(len(call.t.outputs)):
        size = call.out(i)[dim]
        axes = [
            a if d != dim or a.size == size else Axis(Term(*size)) for d, a in enumerate(x.axes)
        ]
        call.set(axes, i)
