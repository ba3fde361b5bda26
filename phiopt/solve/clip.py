"""An optimiser that sees no gradient above a norm."""

from typing import Any

import torch
from torchopt.base import GradientTransformation

from phiopt._types import Params
from phiopt._values import positive
from phiopt.derivatives import square_norm
from phiopt.solve.optimizer import check_transformation


def clipped(optimizer: GradientTransformation, max_norm: float) -> GradientTransformation:
    """``optimizer``, given each gradient shortened to a norm of at most ``max_norm``.

        g · min(1, max_norm / ‖g‖)

    The factor is differentiated as the rest is, which an adjoint needs:
    ``torchopt.clip.clip_grad_norm`` takes it for a constant.

    Args:
        optimizer: Any functional optimiser of TorchOpt, such as ``torchopt.sgd(0.1)``.
        max_norm: Of all coordinates together.

    Raises:
        TypeError: ``optimizer`` is no optimiser of TorchOpt.
        ValueError: ``max_norm`` is not positive and finite.

    Examples:
        >>> import torch, torchopt
        >>> optimizer = clipped(torchopt.sgd(1.0), max_norm=1.0)
        >>> w = {"w": torch.zeros(2)}
        >>> optimizer.update({"w": torch.tensor([3.0, -4.0])}, optimizer.init(w), params=w)[0]
        {'w': tensor([-0.6000,  0.8000])}
    """
    check_transformation(optimizer)
    positive("max_norm", max_norm)

    def update(
        updates: Params, state: Any, *, params: Params | None = None, inplace: bool = True
    ) -> tuple[Params, Any]:
        square = square_norm(updates)
        long = square > max_norm**2
        # Of 1 where nothing is clipped: the root has no derivative at 0.
        scale = torch.where(long, max_norm / square.where(long, 1.0).sqrt(), 1.0)
        updates = {name: value * scale for name, value in updates.items()}
        return optimizer.update(updates, state, params=params, inplace=inplace)

    return GradientTransformation(optimizer.init, update)
