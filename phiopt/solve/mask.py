"""An optimiser that moves some coordinates only."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchopt.base import GradientTransformation

from phiopt._types import Params
from phiopt._values import instance
from phiopt.solve.optimizer import check_transformation


def masked(optimizer: GradientTransformation, mask: Mapping[str, Tensor]) -> GradientTransformation:
    """``optimizer``, with every update set to zero outside of ``mask``.

    With ``GrowthMap.mask()`` φ is minimised over the teacher's coordinates alone, and the new ones
    stay as the start has them: an affine slice of the paper's problem, to be named as such where it
    is reported. The certificate's gradient is still that of all coordinates.

    Args:
        optimizer: Any functional optimiser of TorchOpt, such as ``torchopt.adam(1e-3)``.
        mask: Boolean tensors of the parameters' shapes by their names, True where a coordinate may
            move; names that are no parameter are ignored.

    Raises:
        TypeError: ``optimizer`` is no optimiser of TorchOpt, or ``mask`` no mapping of tensors.
        ValueError: When a solve begins: ``mask`` lacks a parameter, has it in another shape, or is
            not boolean.

    Examples:
        >>> import torch, torchopt
        >>> optimizer = masked(torchopt.sgd(1.0), {"w": torch.tensor([True, False])})
        >>> w = {"w": torch.zeros(2)}
        >>> optimizer.update({"w": torch.ones(2)}, optimizer.init(w), params=w)[0]
        {'w': tensor([-1.,  0.])}
    """

    check_transformation(optimizer)
    instance("mask", mask, Mapping, "boolean tensors by name, such as GrowthMap.mask()")
    for name, value in mask.items():
        instance(f"mask[{name!r}]", value, Tensor, "a tensor of torch.bool")

    def init(params: Params) -> Any:
        for name, value in params.items():
            if name not in mask:
                raise ValueError(f"mask: lacks {name}, must hold every parameter")
            if mask[name].shape != value.shape:
                raise ValueError(
                    f"mask: {name} is {tuple(mask[name].shape)}, must be {tuple(value.shape)}"
                )
            if mask[name].dtype != torch.bool:
                raise ValueError(f"mask: {name} is {mask[name].dtype}, must be torch.bool")
        return optimizer.init(params)

    def update(
        updates: Params, state: Any, *, params: Params | None = None, inplace: bool = True
    ) -> tuple[Params, Any]:
        moved, state = optimizer.update(updates, state, params=params, inplace=inplace)
        kept = {n: value.where(mask[n].to(value.device), 0.0) for n, value in moved.items()}
        return kept, state

    return GradientTransformation(init, update)
