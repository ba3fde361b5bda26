"""An optimiser that sees all parameters as one vector."""

from typing import Any

from torchopt.base import GradientTransformation

from phiopt._types import Params
from phiopt.solve.vector import to_params, to_vector

ALL = "all"


def flattened(optimizer: GradientTransformation) -> GradientTransformation:
    """``optimizer`` on all entries in one vector, and its updates in their places again.

    TorchOpt's transformations loop over tensors in Python, a dozen operations to each: with 204 small
    ones that is ten times what the arithmetic takes. For optimisers that treat all coordinates alike,
    as Adam does, and read no parameters; the result is the same.

    Examples:
        >>> import torch, torchopt
        >>> optimizer = flattened(torchopt.sgd(1.0))
        >>> w = {"w": torch.zeros(2), "b": torch.zeros(())}
        >>> g = {"w": torch.tensor([3.0, -4.0]), "b": torch.tensor(1.0)}
        >>> optimizer.update(g, optimizer.init(w), params=w)[0]
        {'w': tensor([-3.,  4.]), 'b': tensor(-1.)}
    """

    def init(params: Params) -> Any:
        return optimizer.init({ALL: to_vector(params)})

    def update(
        updates: Params, state: Any, *, params: Params | None = None, inplace: bool = True
    ) -> tuple[Params, Any]:
        flat, state = optimizer.update({ALL: to_vector(updates)}, state, inplace=inplace)
        return to_params(flat[ALL], updates), state

    return GradientTransformation(init, update)
