"""Parameters that are zero and hide what they multiply: of a head, a residual branch's gate, a new layer's scale."""

from __future__ import annotations

from phiopt._types import Params
from phiopt.growth.optional import REGROUPS, parameter_of
from phiopt.growth.trace import Node, Trace, Value

_SUMS = {"add", "sub"}
_PRODUCTS_PLUS = {"addmm", "addmv", "addbmm", "baddbmm"}  # add their "self" to a product


def hiding(trace: Trace, tensors: Params) -> list[str]:
    """Names of the parameters that are zero everywhere and by which some operation multiplies.

    Args:
        trace: One forward pass.
        tensors: Its parameters, by name.
    """
    zero = {name for name, x in tensors.items() if x.is_floating_point() and not x.any()}
    if not zero:
        return []
    found = {
        parameter_of(trace, value)
        for node in trace.nodes
        if node.name not in REGROUPS
        for argument, value in node.arguments.items()
        if isinstance(value, Value) and not _adds(node, argument)
    }
    return [name for name in tensors if name in zero & found]


def _adds(node: Node, argument: str) -> bool:
    return (
        argument == "bias"
        or node.name in _SUMS
        or (node.name in _PRODUCTS_PLUS and argument == "self")
    )
