"""Operations that pick coordinates by index: rows of a table, or the largest values."""

from collections.abc import Iterable, Sequence

import numpy as np

from phiopt.growth.axes import Term, fixed
from phiopt.growth.call import Call
from phiopt.growth.catalogue import Facts, Lookup, declare
from phiopt.growth.graph import Node, Value
from phiopt.growth.operations import register_rule
from phiopt.growth.pairs import Axis, Pair
from phiopt.growth.unify import unify


def inexact_if_moved(call: Call, x: Pair, dims: Iterable[int]) -> None:
    """Record a pick of units that grow or change their order. A trace holds no values, and so not which units.

    Rows of a table are no units: they are picked as those of an embedding are.
    """
    if not x.weight and any(x.axes[d].moved for d in dims):
        call.inexact(f"{call.t.name} over a widened axis")


def place_rows(call: Call, rows: Axis, at: tuple[Value, Value]) -> None:
    """Put the rows of a table that the input's tokens pick where ψ sends the tokens."""
    moves = call.state.moves
    if moves is None or moves.keeps_tokens or not rows.source_parameters:
        return
    lookup = moves.rows((call.state.teacher, call.state.student), at, rows.size)
    if lookup.reason is not None:
        call.inexact(f"which rows the lift's inputs look up cannot be followed: {lookup.reason}")
    elif not np.array_equal(lookup.settled(rows.size[1]), np.arange(rows.size[0])):
        unify(rows.term, fixed(lookup.settled(rows.size[1]), rows.size[1], external=True))


def matrices(x: Pair, picked: Sequence[int]) -> bool | None:
    """Whether whole matrices are picked from a parameter, as those of experts are. They stay parameters."""
    return True if x.weight and len(x.axes) - len(picked) > 1 else None


declare("nonzero", "masked_select", facts=Facts(chooses=True))

TABLE = Lookup("indices", "weight", 0)


def not_compared(node: Node) -> None:
    """The meaning of an option that changes no output: ``padding_idx`` only stops gradients."""


@register_rule(
    "embedding",
    facts=Facts(product=True, lookup=TABLE, meanings={"padding_idx": not_compared}),
)
def embedding(call: Call) -> None:
    weight, indices = call.pair("weight"), call.pair("indices")
    place_rows(call, weight.axes[0], (call.t.arguments["indices"], call.s.arguments["indices"]))
    call.set([*indices.axes, weight.axes[1]], scales=weight.axes[1])


@register_rule("embedding_renorm")
def bounded_embedding(call: Call) -> None:
    """``max_norm``: rows that are too long are scaled down as a whole."""
    weight = call.pair("self")
    if weight.axes[1].grown:
        call.inexact(
            "max_norm over a row that grows; kept where no row reaches it, or new columns are zero"
        )
    call.set(weight.axes)


@register_rule("_embedding_bag", "_embedding_bag_forward_only", facts=Facts(lookup=TABLE))
def embedding_bag(call: Call) -> None:
    """Sum, mean or maximum of each bag of rows. Results for the backward pass have free axes."""
    call.const("mode")
    rows = call.pair("weight").axes[0]
    place_rows(call, rows, (call.t.arguments["indices"], call.s.arguments["indices"]))
    call.set([Axis(Term(*call.out()[0])), call.pair("weight").axes[1]])
    for i in range(1, len(call.t.outputs)):
        call.set([Axis(Term(*size)) for size in call.out(i)], i)


@register_rule("index_select", facts=Facts(lookup=Lookup("index")))
def index_select(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    inexact_if_moved(call, x, [dim])
    place_rows(call, x.axes[dim], (call.t.arguments["index"], call.s.arguments["index"]))
    axes = list(x.axes)
    axes[dim] = Axis(Term(*call.out()[dim]), x.axes[dim].source_parameters)
    call.set(axes, weight=matrices(x, [dim]))


@register_rule("index", facts=Facts(lookup=Lookup("indices", dim=None)))
def index(call: Call) -> None:
    """``x[i, j]``: the axes of the indices take the place of indexed axes that are adjacent, or else come first."""
    x = call.pair("self")
    given = [d for d, i in enumerate(call.t.arguments["indices"]) if isinstance(i, Value)]
    inexact_if_moved(call, x, given)
    for d in given:
        place_rows(call, x.axes[d], tuple(n.arguments["indices"][d] for n in (call.t, call.s)))
    kept = [a for d, a in enumerate(x.axes) if d not in given]
    adjacent = given == list(range(given[0], given[-1] + 1))
    start = given[0] if adjacent else 0
    picked = len(call.out()) - len(kept)
    new = [Axis(Term(*size)) for size in call.out()[start : start + picked]]
    call.set([*kept[:start], *new, *kept[start:]], weight=matrices(x, given))


@register_rule("index_put", facts=Facts(lookup=Lookup("indices", dim=None)))
def index_put(call: Call) -> None:
    """``x[i, j] = values``: the axes that are not indexed are those of the values."""
    x, values = call.pair("self"), call.pair("values")
    given = [d for d, i in enumerate(call.t.arguments["indices"]) if isinstance(i, Value)]
    inexact_if_moved(call, x, given)
    axes = list(x.axes)
    adjacent = given == list(range(given[0], given[-1] + 1))
    behind = [d for d in range(given[0] if adjacent else 0, len(axes)) if d not in given]
    for axis, d in zip(values.axes[::-1], behind[::-1], strict=False):
        if axis.size == axes[d].size:
            axes[d] = call.join(axes[d], axis)
    call.set(axes)


@register_rule("gather", facts=Facts(lookup=Lookup("index")))
@register_rule("scatter", "scatter_add", "index_fill", "index_copy", "index_add")
def gather(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    inexact_if_moved(call, x, [dim])
    axes = [a if d != dim else Axis(Term(*call.out()[d])) for d, a in enumerate(x.axes)]
    call.set(axes)


# Another k changes no coordinate: the first values of an order are the same.
@register_rule("topk", facts=Facts(measured=frozenset({"k"})))
@register_rule("sort")
def sort(call: Call) -> None:
    x = call.pair("self")
    dim = call.dim("dim", len(x.axes))
    if x.axes[dim].moved:
        call.inexact(f"{call.t.name} over a widened axis")
    for i in range(len(call.t.outputs)):
        size = call.out(i)[dim]
        axes = [
            a if d != dim or a.size == size else Axis(Term(*size)) for d, a in enumerate(x.axes)
        ]
        call.set(axes, i)


@register_rule("histc")
def counts(call: Call) -> None:
    """How often numbers occur, such as those of experts."""
    x = call.pair("self")
    bins = [call.both(name) for name in ("bins", "min", "max")]
    if any(axis.moved for axis in x.axes):
        call.inexact("histc over a widened axis")
    elif any(t != s for t, s in bins):
        call.inexact("histc with other bins, of which the first are taken to be the teacher's")
    call.set([Axis(Term(*size)) for size in call.out()])
