"""Gradient transformations that TorchOpt lacks: masks, clipping that can be differentiated, gradients of one size, all
parameters as one vector. The default optimiser is made of them.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
import torchopt
from torch import Tensor
from torchopt.base import GradientTransformation

from phiopt._checks import count, instance, positive
from phiopt._shown import shown
from phiopt._types import Params
from phiopt._vector import to_params, to_vector
from phiopt.derivatives import square_norm

ALL = "all"
"""The name of the one vector that an optimiser sees in place of all parameters."""


@runtime_checkable
class Transformation(Protocol):
    """A functional optimiser, as TorchOpt makes them."""

    def init(self, params: Any) -> Any:
        """The state before the first step."""
        ...

    def update(self, updates: Any, state: Any, **options: Any) -> Any:
        """The step for a gradient, and the next state."""
        ...


def default_optimizer(
    steps: int, learning_rate: float = 3e-3, *, every: int = 1, eps_root: float = 0.0
) -> Any:
    """The optimiser of ``optimizer=None`` in a solve of so many steps: `decaying_adam` on `normalised` gradients, as
    one vector. One step in ``every`` has all terms.
    """
    return flattened(normalised(decaying_adam(steps, learning_rate, eps_root), window=every))


def decaying_adam(steps: int, learning_rate: float, eps_root: float = 0.0) -> Any:
    """Adam. Its rate is constant over the first half of the steps, to make progress, and falls linearly to 0
    over the second half, to average the noise of the gradients.
    """
    falling = (steps + 1) // 2
    rate = torchopt.schedule.linear_schedule(learning_rate, 0.0, falling, steps - falling)
    return torchopt.adam(rate, eps_root=eps_root)


def masked(optimizer: GradientTransformation, mask: Mapping[str, Tensor]) -> GradientTransformation:
    """``optimizer``, with every update set to zero outside of ``mask``.

    With ``GrowthMap.mask()`` the solver moves only the teacher's coordinates, and new coordinates stay at the start.
    That is an affine slice of the paper's problem, and a report should say so. The certificate's gradient is still
    that of all coordinates.

    Args:
        optimizer: Any functional optimiser of TorchOpt, such as ``torchopt.adam(1e-3)``.
        mask: Boolean tensors of the parameters' shapes by their names, True where a coordinate may move. Other
            names are ignored.

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
        updates, state = optimizer.update(updates, state, params=params, inplace=inplace)
        inside = {n: value.where(mask[n].to(value.device), 0.0) for n, value in updates.items()}
        return inside, state

    return GradientTransformation(init, update)


def clipped(optimizer: GradientTransformation, max_norm: float) -> GradientTransformation:
    """``optimizer``, applied to gradients that are shortened to a norm of at most ``max_norm``.

        g · min(1, max_norm / ‖g‖)

    The factor is differentiated too, as an adjoint needs. ``torchopt.clip.clip_grad_norm`` takes the factor
    for a constant.

    Args:
        optimizer: Any functional optimiser of TorchOpt, such as ``torchopt.sgd(0.1)``.
        max_norm: Largest norm, over all coordinates together.

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
        # Where nothing is clipped the root is that of 1, because at 0 the root has no derivative.
        scale = torch.where(long, max_norm / square.where(long, 1.0).sqrt(), 1.0)
        updates = {name: value * scale for name, value in updates.items()}
        return optimizer.update(updates, state, params=params, inplace=inplace)

    return GradientTransformation(optimizer.init, update)


def normalised(optimizer: GradientTransformation, window: int = 1) -> GradientTransformation:
    """``optimizer``, applied to gradients that are divided by the root of their mean square.

        g / √(‖g‖² / N),   N coordinates

    φ's gradients fall by powers of ten in a solve, as the curvature does. Because probes and examples are random, a
    few are many times as large as the others. Adam averages squared gradients over a thousand steps, and so its
    steps would be too short for the rest of the solve. Gradients of one size have equal weight (for SGD, see Cutkosky
    and Mehta 2020). A gradient of zero stays zero.

    Args:
        optimizer: Any functional optimiser of TorchOpt, such as ``torchopt.adam(1e-3)``. Its steps do not shrink
            with the gradient, so its rate should fall towards the end.
        window: Steps over which the mean square is averaged. The weights fall exponentially from 1 / window
            for the present step. Default 1: the present gradient only. If one step in k has the curvature
            (``Frobenius(every=k)``) that step must keep its larger size: take k.

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
        average, inner = state  # averages of the mean squares, and of 1, which corrects the first
        mean = square_norm(updates) / sum(value.numel() for value in updates.values())
        average = average + (torch.stack([mean, torch.ones_like(mean)]) - average) / window
        mean, weight = average.unbind()
        scale = (weight / mean.where(mean > 0, weight)).sqrt()  # no derivative at 0
        updates = {name: value * scale for name, value in updates.items()}
        updates, inner = optimizer.update(updates, inner, params=params, inplace=inplace)
        return updates, (average, inner)

    return GradientTransformation(init, update)


def flattened(optimizer: GradientTransformation) -> GradientTransformation:
    """``optimizer``, applied to all parameters as one vector.

    TorchOpt's transformations loop over tensors in Python, with a dozen operations for each tensor. With 204 small
    tensors the loop takes ten times as long as the arithmetic. The result is the same for optimisers, such as Adam,
    that treat all coordinates alike and read no parameters.

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


def check_optimizer(optimizer: Any) -> None:
    """Refuse an object that is neither a functional optimiser of TorchOpt nor None."""
    if optimizer is not None:
        check_transformation(optimizer)


def check_transformation(optimizer: Any) -> None:
    """Refuse an object that is no functional optimiser of TorchOpt. A class is refused too."""
    if isinstance(optimizer, type) or not isinstance(optimizer, Transformation):
        raise TypeError(
            f"optimizer: got {shown(optimizer)}, must be a TorchOpt gradient transformation "
            "such as torchopt.adam(1e-3)"
        )
