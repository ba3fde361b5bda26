"""An optimiser that sees gradients of one size."""

from typing import Any

import torch
from torchopt.base import GradientTransformation

from phiopt._types import Params
from phiopt._values import count
from phiopt.derivatives import square_norm
from phiopt.solve.optimizer import check_transformation


def normalised(optimizer: GradientTransformation, window: int = 1) -> GradientTransformation:
    """``optimizer``, given each gradient divided by the root of its mean square.

        g / √(‖g‖² / N),   N coordinates

    φ's gradients fall by powers of ten in a solve, as the curvature does, and a few of them are many
    times the others, by their probe and examples. An optimiser that remembers their squares, as Adam
    does over a thousand steps, then takes steps that are too short for the rest of the solve. Of one
    size, gradients weigh alike (for SGD, see Cutkosky and Mehta 2020). A gradient of zero stays zero.

    Args:
        optimizer: Any functional optimiser of TorchOpt, such as ``torchopt.adam(1e-3)``. Its steps do
            not shrink as the gradient does: its rate should fall where it is to come to rest.
        window: Steps over which the mean square is averaged, with exponentially falling weights, the
            present one's 1 / window; default 1, the present gradient alone. Where the curvature is in
            one step of k (``Frobenius(every=k)``) that step must keep its larger size: take k.

    Raises:
        TypeError: ``optimizer`` is no optimiser of TorchOpt.
        ValueError: ``window`` < 1.

    Examples:
        >>> import torch, torchopt
        >>> optimizer = normalised(torchopt.sgd(1.0))
        >>> w = {"w": torch.zeros(2)}
        >>> optimizer.update({"w": torch.tensor([300.0, -400.0])}, optimizer.init(w), params=w)[0]
        {'w': tensor([-0.8485,  1.1314])}
    """
    check_transformation(optimizer)
    count("window", window)

    def init(params: Params) -> Any:
        like = next(iter(params.values()))
        return torch.zeros((2,), dtype=like.dtype, device=like.device), optimizer.init(params)

    def update(
        updates: Params, state: Any, *, params: Params | None = None, inplace: bool = True
    ) -> tuple[Params, Any]:
        average, inner = state  # of the mean squares, and of 1, by which it is corrected
        mean = square_norm(updates) / sum(value.numel() for value in updates.values())
        average = average + (torch.stack([mean, torch.ones_like(mean)]) - average) / window
        mean, weight = average.unbind()
        scale = (weight / mean.where(mean > 0, weight)).sqrt()  # no derivative at 0
        updates = {name: value * scale for name, value in updates.items()}
        updates, inner = optimizer.update(updates, inner, params=params, inplace=inplace)
        return updates, (average, inner)

    return GradientTransformation(init, update)
