"""An optimiser that sees the gradient's direction alone."""

from typing import Any

from torchopt.base import GradientTransformation

from phiopt._types import Params
from phiopt.derivatives import square_norm


def normalised(optimizer: GradientTransformation) -> GradientTransformation:
    """``optimizer``, given each gradient divided by the root of its mean square.

        g / √(‖g‖² / N),   N coordinates

    φ's gradients fall by powers of ten in a solve, as the curvature does, and a few of them are many
    times the others, by their probe and examples. An optimiser that remembers their squares, as Adam
    does over a thousand steps, then takes steps that are too short for the rest of the solve. Of one
    size, gradients weigh alike (for SGD, see Cutkosky and Mehta 2020). A gradient of zero stays zero.

    Args:
        optimizer: Any functional optimiser of TorchOpt, such as ``torchopt.adam(1e-3)``. Its steps do
            not shrink as the gradient does: its rate should fall where it is to come to rest.

    Examples:
        >>> import torch, torchopt
        >>> optimizer = normalised(torchopt.sgd(1.0))
        >>> w = {"w": torch.zeros(2)}
        >>> optimizer.update({"w": torch.tensor([300.0, -400.0])}, optimizer.init(w), params=w)[0]
        {'w': tensor([-0.8485,  1.1314])}
    """

    def update(
        updates: Params, state: Any, *, params: Params | None = None, inplace: bool = True
    ) -> tuple[Params, Any]:
        mean = square_norm(updates) / sum(value.numel() for value in updates.values())
        scale = mean.where(mean > 0, 1.0).rsqrt()  # no derivative at 0
        updates = {name: value * scale for name, value in updates.items()}
        return optimizer.update(updates, state, params=params, inplace=inplace)

    return GradientTransformation(optimizer.init, update)
