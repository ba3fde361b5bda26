"""Parameters as one vector, for methods that do not use names and shapes; and parameters by a prefix of their names."""

import torch
from torch import Tensor

from phiopt._types import Params


def to_vector(params: Params) -> Tensor:
    """All entries, ``(n,)``.

    Examples:
        >>> to_vector({"w": torch.ones(2, 2), "b": torch.zeros(1)})
        tensor([1., 1., 1., 1., 0.])
    """
    if not params:
        return torch.zeros(0, device="cpu")
    return torch.cat([value.reshape(-1) for value in params.values()])


def to_params(vector: Tensor, like: Params) -> Params:
    """The inverse of `to_vector`, by the names and in the shapes of ``like``."""
    pieces = vector.split([value.numel() for value in like.values()])
    return {k: piece.view(v.shape) for (k, v), piece in zip(like.items(), pieces, strict=True)}


def under(prefix: str, values: Params) -> Params:
    """The values whose names begin with ``prefix``, by the rest of the name.

    Examples:
        >>> under("psi.", {"psi.weight": torch.ones(1), "extra.weight": torch.zeros(1)})
        {'weight': tensor([1.])}
    """
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
