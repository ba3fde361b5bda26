"""Operations that contract an axis: matrix products, embeddings, bilinear forms."""

from phiopt.growth.axes import Mismatch, Term
from phiopt.growth.correspond import Axis, Pair
from phiopt.growth.operations import Call, register_rule
from phiopt.growth.rules.indexing import place_rows


def linear_in(axes: list[Axis], *operands: Pair) -> Axis | None:
    """An axis of parameters in which a product is linear: the rows of the weight, or an activation's own."""
    if any(p.weight for p in operands):
        return next((a for a in reversed(axes) if a.origins), None)
    return next((p.scales for p in reversed(operands) if p.scales), None)


@register_rule("mm", "mv", "dot", "vdot")
def mm(call: Call) -> None:
    a = call.pair("self")
    other = next(n for n in ("mat2", "vec", "tensor", "other") if n in call.t.arguments)
    b = call.pair(other)
    call.contract(a, len(a.axes) - 1, b, 0)
    axes = [*a.axes[:-1], *b.axes[1:]]
    call.set(axes, scales=linear_in(axes, a, b))


@register_rule("bmm")
def bmm(call: Call) -> None:
    a, b = call.pair("self"), call.pair("mat2")
    call.contract(a, 2, b, 1)
    batch = call.join(a.axes[0], b.axes[0])
    axes = [batch, a.axes[1], b.axes[2]]
    call.set(axes, scales=linear_in(axes, a, b))


@register_rule("addmm", "addmv", "baddbmm")
def addmm(call: Call) -> None:
    bias = call.pair("self") if call.has("self") else None
    first, second = ("batch1", "batch2") if "batch1" in call.t.arguments else ("mat1", "mat2")
    if "vec" in call.t.arguments:
        first, second = "mat", "vec"
    a, b = call.pair(first), call.pair(second)
    lead = len(a.axes) - 2
    call.contract(a, len(a.axes) - 1, b, lead if second != "vec" else 0)
    axes = [call.join(x, y) for x, y in zip(a.axes[:lead], b.axes[:lead], strict=True)]
    axes += [a.axes[lead], *(b.axes[lead + 1 :] if second != "vec" else ())]
    for i in range(1, len(bias.axes) + 1 if bias else 1):
        if bias and bias.axes[-i].size != (1, 1):
            axes[-i] = call.join(axes[-i], bias.axes[-i])
    # A product with its bias is linear in the rows of both; with a constant, it is not.
    summed = bias is None or (bias.weight and any(axis.origins for axis in bias.axes))
    call.set(axes, scales=linear_in(axes, a, b) if summed else None)


@register_rule("embedding")
def embedding(call: Call) -> None:
    weight, indices = call.pair("weight"), call.pair("indices")
    place_rows(call, weight.axes[0], (call.t.arguments["indices"], call.s.arguments["indices"]))
    call.set([*indices.axes, weight.axes[1]], scales=weight.axes[1])


@register_rule("embedding_renorm")
def bounded_embedding(call: Call) -> None:
    """``max_norm``: rows that are too long are shortened, as a whole."""
    weight = call.pair("self")
    if weight.axes[1].grown:
        call.remark(
            "max_norm over a row that grows; kept where no row reaches it, or new columns are zero"
        )
    call.set(weight.axes)


@register_rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(call: Call) -> None:
    """Sum, mean or maximum of each bag of rows; what is kept for the backward pass has no places."""
    call.const("mode")
    rows = call.pair("weight").axes[0]
    place_rows(call, rows, (call.t.arguments["indices"], call.s.arguments["indices"]))
    call.set([Axis(Term(*call.out()[0])), call.pair("weight").axes[1]])
    for i in range(1, len(call.t.outputs)):
        call.set([Axis(Term(*size)) for size in call.out(i)], i)


@register_rule("_trilinear")
def trilinear(call: Call) -> None:
    """``nn.Bilinear``: x1 (b, i), W (o, i, j), x2 (b, j), each expanded to (b, o, i, j)."""
    if call.const("sumdim") != [2, 3] or call.const("expand1") != [1, 3]:
        raise Mismatch("only the form of nn.Bilinear has a rule")
    a, w, b = call.pair("i1"), call.pair("i2"), call.pair("i3")
    call.contract(a, 1, w, 1)
    call.contract(b, 1, w, 2)
    call.set([call.join(a.axes[0], b.axes[0]), w.axes[0]])
