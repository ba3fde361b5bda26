"""Parameters that are zero and hide what they multiply, such as a residual branch's gate or a new layer's scale."""

from __future__ import annotations

from phiopt._types import Params
from phiopt.growth.catalogue import facts
from phiopt.growth.graph import Node, Trace, Value
from phiopt.growth.optional import parameter_of


def hiding(trace: Trace, tensors: Params) -> list[str]:
    """Names of the parameters that are zero everywhere and by which some operation multiplies.

    Args:
        trace: A forward pass.
        tensors: The parameters, by name.
    """
    zero = {name for name, x in tensors.items() if x.is_floating_point() and not x.any()}
    if not zero:
        return []
    factors = {
        parameter_of(trace, value)
        for node in trace.nodes
        if not facts(node.name).regroups
        for argument, value in node.arguments.items()
        if isinstance(value, Value) and not _adds(node, argument)
    }
    return [name for name in tensors if name in zero & factors]


def _adds(node: Node, argument: str) -> bool:
    """Whether the operation adds this argument, so that zeros in it hide nothing."""
    known = facts(node.name)
    return 0.0 in known.neutral.values() or known.optional.get(argument) == 0.0
