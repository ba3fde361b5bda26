"""Matrix products, with and without a bias, and bilinear forms."""

from collections.abc import Mapping
from typing import Any

from phiopt.growth.axes import Mismatch
from phiopt.growth.call import Call
from phiopt.growth.catalogue import Facts, declare
from phiopt.growth.operations import register_rule
from phiopt.growth.options import difference, same_option
from phiopt.growth.pairs import Axis, Factor, Pair


def linear_in(axes: list[Axis], *operands: Pair) -> Axis | None:
    """An axis of parameters in which a product is linear: the rows of its weight, or those in which an operand is."""
    if any(p.weight for p in operands):
        return next((a for a in reversed(axes) if a.source_parameters), None)
    return next((p.scales for p in reversed(operands) if p.scales), None)


def with_bias(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``addmm`` from those of ``mm``: a product whose bias is not given."""
    factors = {"mat1": arguments["self"], "mat2": arguments["mat2"]}
    return {"self": None, **factors, "beta": 1, "alpha": 1}


BIAS = {"self": 0.0}


@register_rule("mm", facts=Facts(product=True, inserted="identity", general=("addmm", with_bias)))
@register_rule("mv", facts=Facts(product=True, inserted="identity"))
@register_rule("dot", "vdot", facts=Facts(product=True))
def mm(call: Call) -> None:
    a = call.pair("self")
    other = next(n for n in ("mat2", "vec", "tensor", "other") if n in call.t.arguments)
    b = call.pair(other)
    call.contract(a, len(a.axes) - 1, b, 0)
    axes = [*a.axes[:-1], *b.axes[1:]]
    call.set(axes, scales=linear_in(axes, a, b))


@register_rule("bmm", facts=Facts(product=True))
def bmm(call: Call) -> None:
    a, b = call.pair("self"), call.pair("mat2")
    call.contract(a, 2, b, 1)
    batch = call.join(a.axes[0], b.axes[0])
    axes = [batch, a.axes[1], b.axes[2]]
    call.set(axes, scales=linear_in(axes, a, b))


@register_rule("_grouped_mm", facts=Facts(product=True, factors=("self", "mat2")))
def grouped_mm(call: Call) -> None:
    """Rows (r, k), of which the first go through the first of several matrices (n, k, m), and so on to the last."""
    a, b = call.pair("self"), call.pair("mat2")
    if (len(a.axes), len(b.axes)) != (2, 3):
        raise Mismatch("only the form in which groups of rows are multiplied has a rule")
    call.contract(a, 1, b, 1)
    if call.has("offs"):
        call.join(b.axes[0], call.pair("offs").axes[0])
    axes = [a.axes[0], b.axes[2]]
    call.set(axes, scales=linear_in(axes, a, b))


@register_rule("addmm", "addmv", facts=Facts(product=True, inserted="identity", optional=BIAS))
@register_rule("baddbmm", facts=Facts(product=True, optional=BIAS))
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
    _factor(call, second)
    # The sum of a product and a bias is linear in the rows of both. That of a product and a constant is not.
    summed = bias is None or (bias.weight and any(axis.source_parameters for axis in bias.axes))
    call.set(axes, scales=linear_in(axes, a, b) if summed else None)


def _factor(call: Call, second: str) -> None:
    """Let the weights that make an operand take up another factor of the product."""
    t, s = call.both("alpha")
    if t and s and not same_option(call.t, call.s, "alpha"):
        value = call.s.arguments[second]
        where = call.s.module or "the root module"
        reason = f"{where}: {difference(call.t, call.s, 'alpha').text}"
        call.state.factors.append(Factor(value, call.pair(second).scales, t / s, reason))


@register_rule("_trilinear")
def trilinear(call: Call) -> None:
    """``nn.Bilinear``: x1 (b, i), W (o, i, j), x2 (b, j), each expanded to (b, o, i, j)."""
    if call.const("sumdim") != [2, 3] or call.const("expand1") != [1, 3]:
        raise Mismatch("only the form of nn.Bilinear has a rule")
    a, w, b = call.pair("i1"), call.pair("i2"), call.pair("i3")
    call.contract(a, 1, w, 1)
    call.contract(b, 1, w, 2)
    call.set([call.join(a.axes[0], b.axes[0]), w.axes[0]])


declare("addbmm", facts=Facts(product=True, optional=BIAS))
