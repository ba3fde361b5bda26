"""Copies of modules."""

from copy import deepcopy
from typing import TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module) -> Module:
    """A deep copy of ``module``.

    ``deepcopy`` alone refuses the results of a computation, such as an activation that a forward
    pass kept as an attribute; here they are copied off the graph.
    """
    held = tree_leaves([vars(part) for part in module.modules()])
    results = [value for value in held if isinstance(value, Tensor) and not value.is_leaf]
    return deepcopy(module, {id(value): value.detach().clone() for value in results})
