"""Copies of one student at several learning rates, trained on the same batches by Adam.

`Loop` trains them one after the other, which a CPU does in .5 to .8 of the time; `Ensemble` as one
`torch.func` model with stacked parameters, which keeps a GPU busy. They give the same students to rounding.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from phiopt._types import Params
from phiopt.derivatives import differentiable

Model: TypeAlias = Callable[[Tensor], Tensor]
"""Inputs to outputs."""

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
"""PyTorch's defaults."""


class TrainingLoss(Protocol):
    """What a step of training minimises on a batch."""

    @property
    def cost(self) -> float:
        """Its price in plain gradient evaluations."""
        ...

    def prepare(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, ...]:
        """What it needs of a batch, the same for all students; ``generator`` is for its own randomness."""
        ...

    def __call__(self, model: Model, *prepared: Tensor) -> Tensor: ...


class Students(Protocol):
    """One for each learning rate."""

    def step(self, loss: TrainingLoss, prepared: tuple[Tensor, ...]) -> None: ...

    def student(self, row: int) -> nn.Module:
        """As it is now, not to be kept; in training mode."""
        ...

    def drop(self, row: int) -> None:
        """It diverged and is not asked for again."""
        ...


def students(model: nn.Module, rates: Sequence[float]) -> Students:
    """An `Ensemble` on a GPU, unless there are buffers that training writes to; else a `Loop`."""
    on_gpu = next(model.parameters()).device.type == "cuda"
    together = on_gpu and next(model.buffers(), None) is None
    return Ensemble(model, rates) if together else Loop(model, rates)


class Loop:
    """Modules of their own, a step of each in turn."""

    def __init__(self, model: nn.Module, rates: Sequence[float]) -> None:
        # CNNs train 1.6 times as fast so on a CPU; other layers have no such format.
        self._models = {
            row: copy.deepcopy(model).to(memory_format=torch.channels_last).train()
            for row in range(len(rates))
        }
        self._optimizers = {
            row: torch.optim.Adam(self._models[row].parameters(), lr=rate, fused=True)
            for row, rate in enumerate(rates)
        }

    def step(self, loss: TrainingLoss, prepared: tuple[Tensor, ...]) -> None:
        for row, model in self._models.items():
            self._optimizers[row].zero_grad()
            loss(model, *prepared).backward()
            self._optimizers[row].step()

    def student(self, row: int) -> nn.Module:
        return self._models[row]

    def drop(self, row: int) -> None:
        del self._models[row], self._optimizers[row]


class Ensemble:
    """Stacked parameters, one row a student; for models without buffers that training writes to."""

    def __init__(self, model: nn.Module, rates: Sequence[float]) -> None:
        self._model = copy.deepcopy(model).train()
        stacked, _ = stack_module_state([self._model for _ in rates])
        self._params: Params = {name: value.detach().clone() for name, value in stacked.items()}
        self._first = [torch.zeros_like(p) for p in self._params.values()]
        self._second = [torch.zeros_like(p) for p in self._params.values()]
        self._rates = [
            torch.tensor(rates, dtype=torch.float64).to(p).view(-1, *[1] * (p.dim() - 1))
            for p in self._params.values()
        ]
        self._steps = 0

    @torch.no_grad()
    def step(self, loss: TrainingLoss, prepared: tuple[Tensor, ...]) -> None:
        def of(params: Params) -> Tensor:
            return loss(lambda x: functional_call(self._model, params, (x,)), *prepared)

        # Recurrent kernels have no batching rule; their composites do.
        with differentiable():
            gradient = list(vmap(grad(of))(self._params).values())
        self._steps += 1
        torch._foreach_lerp_(self._first, gradient, 1 - BETA1)
        torch._foreach_mul_(self._second, BETA2)
        torch._foreach_addcmul_(self._second, gradient, gradient, 1 - BETA2)
        roots = torch._foreach_sqrt(self._second)
        torch._foreach_div_(roots, (1 - BETA2**self._steps) ** 0.5)
        torch._foreach_add_(roots, EPS)
        moves = torch._foreach_div(self._first, roots)
        torch._foreach_mul_(moves, self._rates)
        torch._foreach_div_(moves, 1 - BETA1**self._steps)
        torch._foreach_sub_(list(self._params.values()), moves)

    @torch.no_grad()
    def student(self, row: int) -> nn.Module:
        for name, parameter in self._model.named_parameters():
            parameter.copy_(self._params[name][row])
        return self._model

    def drop(self, row: int) -> None:
        """Its row goes on with the others."""
