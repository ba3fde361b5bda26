"""Reductions: sums, means, variances and the like over axes."""

from typing import Any

from phiopt.growth.axes import Term
from phiopt.growth.call import Call
from phiopt.growth.catalogue import Facts
from phiopt.growth.graph import Node
from phiopt.growth.operations import register_rule
from phiopt.growth.pairs import FRESH, MEAN, ZERO, Axis, Norm, Pair

SUMS = ("sum", "any", "linalg_vector_norm", "norm")
VARIANCES = ("var", "std", "var_mean", "std_mean")


def correction(node: Node) -> Any:
    """The meaning of ``correction``, which is subtracted from the number of values: 1 if it is not given."""
    given = node.arguments.get("correction")
    return 1 if given is None else given


@register_rule("mean", "sum", facts=Facts(linear=True))
@register_rule(*VARIANCES, facts=Facts(meanings={"correction": correction}))
@register_rule(
    "amax", "amin", "max", "min", "prod", "any", "all", "argmax", "argmin", "linalg_vector_norm", "norm", "logsumexp",
    "median",
)  # fmt: skip
def reduce(call: Call) -> None:
    x = call.pair("self")
    rank = len(x.axes)
    if "other" in call.t.arguments:  # the two-argument max and min are pointwise
        other = call.pair("other")
        call.set([call.join(a, b) for a, b in zip(x.axes, other.axes, strict=True)])
        return
    dims = call.dims("dim", rank) if "dim" in call.t.arguments else list(range(rank))
    for d in dims:
        if x.axes[d].grown and (call.t.name in ("prod", "logsumexp") or _unbiased(call)):
            call.inexact(f"{call.t.name} over a widened axis")
        elif x.axes[d].grown:
            call.state.norms.append(_statistic(call, x, x.axes[d]))
    keep = bool(call.t.arguments.get("keepdim"))
    axes = [
        Axis(Term(1, 1)) if d in dims else a for d, a in enumerate(x.axes) if keep or d not in dims
    ]
    scales = x.scales if call.t.name in ("mean", "sum") else None
    for i in range(len(call.t.outputs)):
        call.set(axes, i, scales=scales)


def _unbiased(call: Call) -> bool:
    """Whether it is a variance divided by n - 1, which copies do not keep."""
    return call.t.name in VARIANCES and call.t.arguments.get("correction", 1) != 0


def _statistic(call: Call, x: Pair, axis: Axis) -> Norm:
    """What a statistic over a widened axis needs of new units: zeros for a sum, copies for a mean.

    A mean of squares belongs to an RMSNorm. Its weight is the only vector of that size in the module.
    """
    if call.t.name in SUMS:
        return Norm(call.s.module, "norm", axis.term, ZERO, copies=False)
    if call.t.name in VARIANCES:
        return Norm(call.s.module, "variance", axis.term, FRESH)
    made_by = axis.source_parameters
    if call.t.name != "mean" or not x.squared:
        return Norm(call.s.module, "mean", axis.term, MEAN, averages=x.averages, made_by=made_by)
    own = [
        name
        for name, shape in call.state.student.used.items()
        if name.rpartition(".")[0] == call.s.module and shape == (axis.size[1],)
    ]
    weight = own[0] if len(own) == 1 else None
    keeps = "mean square"
    return Norm(call.s.module, "RMSNorm", axis.term, ZERO, weight, keeps=keeps, made_by=made_by)
