"""Learning rates by coordinate, with any optimiser of ``torch.optim``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from phiopt._checks import instance, within
from phiopt._order import in_order
from phiopt.growth import GrowthMap
from phiopt.training.groups import carried_masks

INFINITE = float("inf")


class CoordinateRates(Optimizer):
    """An optimiser whose steps are longer or shorter in the teacher's coordinates than in the new ones of one tensor.

        w ← w + s ⊙ (step of the optimiser),   s = ``carried`` in the teacher's coordinates, ``new`` in the others

    The state of the optimiser, such as momentum, stays that of whole steps. A decoupled weight decay is part of the
    step. With a factor of 0 these coordinates stay exactly what they are, and with 1 the step is exactly the
    optimiser's.

    It stands for the optimiser everywhere: schedulers, gradient scalers and trainers take it, and ``param_groups``,
    ``state``, ``state_dict()`` and ``load_state_dict()`` are the optimiser's own. The factors are no part of the state.

    Args:
        optimizer: Any optimiser of ``torch.optim`` over parameters of ``model``.
        model: The grown model.
        map: The map by which it grew.
        carried: Factor in the teacher's coordinates, not negative; default 1.
        new: Factor in the others; default 1.

    Raises:
        ValueError: A factor is negative or not finite, the map is of another model, or the optimiser holds a tensor
            that is no parameter of the model.
        TypeError: An argument is of another kind.

    Examples:
        >>> from phiopt.growth import grow
        >>> small, large = nn.Linear(4, 2), nn.Linear(4, 3)
        >>> m = GrowthMap.between(small, large)
        >>> grown = grow(small, large, map=m)
        >>> before = grown.bias.detach().clone()
        >>> optimizer = CoordinateRates(torch.optim.SGD(grown.parameters(), lr=1.0), grown, m, carried=0.1)
        >>> grown(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> grown.bias.detach() - before
        tensor([-0.1000, -0.1000, -1.0000])
    """

    @in_order
    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        map: GrowthMap,
        *,
        carried: float = 1.0,
        new: float = 1.0,
    ) -> None:
        instance("optimizer", optimizer, Optimizer, "a torch.optim.Optimizer")
        self.optimizer = optimizer
        self.carried = within("carried", carried, 0, INFINITE)
        self.new = within("new", new, 0, INFINITE)
        masks = carried_masks(model, map)
        names = {p: name for name, p in model.named_parameters()}
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p not in names:
                    raise ValueError(
                        f"optimizer: a parameter of shape {tuple(p.shape)} is none of the model's"
                    )
        self._masks: dict[Tensor, Tensor] = {p: masks[name] for p, name in names.items()}
        self._scales: dict[Tensor, Tensor] = {}

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.optimizer.param_groups

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        return self.optimizer.defaults

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the optimiser, scaled by coordinate."""
        if self.carried == self.new == 1:
            return self._own_step(closure)
        with torch.no_grad():
            before = {p: p.clone() for group in self.param_groups for p in group["params"]}
        loss = self._own_step(closure)
        with torch.no_grad():
            for p, old in before.items():
                p.copy_(torch.lerp(old, p, self._scale(p)))
        return loss

    def _own_step(self, closure: Callable[[], Any] | None) -> Any:
        return self.optimizer.step() if closure is None else self.optimizer.step(closure)

    def _scale(self, p: Tensor) -> Tensor:
        """s, on the parameter's device. A parameter that joined later has 1."""
        scale = self._scales.get(p)
        if scale is None or scale.device != p.device or scale.dtype != p.dtype:
            ones = torch.ones_like(p, requires_grad=False)
            mask = self._masks.get(p)
            scale = ones
            if mask is not None:
                scale = torch.where(mask.to(p.device), self.carried * ones, self.new * ones)
            self._scales[p] = scale
        return scale

    def __repr__(self) -> str:
        return f"CoordinateRates({self.optimizer!r}, carried={self.carried:g}, new={self.new:g})"
