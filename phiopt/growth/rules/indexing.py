"""Operations that pick coordinates by index."""

from collections.abc import Iterable

from phiopt.growth.axes import Term
from phiopt.growth.correspond import Axis, Pair
from phiopt.growth.operations import Call, register_rule
from phiopt.growth.trace import Value


def remark_places(call: Call, x: Pair, dims: Iterable[int]) -> None:
    """Which units an index picks is a value, which no trace holds; rows of a table are picked as those of an
    embedding are.
    """
    if not x.weight and any(x.axes[d].grown for d in dims):
        call.remark(f"{call.t.name} over a widened axis")


@register_rule("index_select")
def index_select(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    remark_places(call, x, [dim])
    axes = list(x.axes)
    axes[dim] = Axis(Term(*call.out()[dim]), x.axes[dim].origins)
    call.set(axes)


@register_rule("index")
def index(call: Call) -> None:
    """``x[i, j]``: indexed axes, when adjacent, are replaced in place by the axes of the indices."""
    x = call.pair("self")
    given = [d for d, i in enumerate(call.t.arguments["indices"]) if isinstance(i, Value)]
    remark_places(call, x, given)
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
    if x.axes[dim].grown:
        call.remark(f"{call.t.name} over a widened axis")
    for i in range(len(call.t.outputs)):
        size = call.out(i)[dim]
        axes = [
            a if d != dim or a.size == size else Axis(Term(*size)) for d, a in enumerate(x.axes)
        ]
        call.set(axes, i)
