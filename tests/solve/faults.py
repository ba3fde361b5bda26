"""A user's parts that fail at one of their calls: models, data of every kind, a neighbourhood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from phiopt.objective import Uniform
from tests.cases import generator, randn

X, Y = randn(24, 3, seed=3), torch.randint(2, (24,), generator=generator(4))


class OwnError(Exception):
    """A user's."""


VALUES = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "1e30": 1e30}
ERRORS = (
    ValueError,
    RuntimeError,
    OSError,
    MemoryError,
    StopIteration,
    KeyError,
    OwnError,
    KeyboardInterrupt,
)
KINDS = (*VALUES, *(error.__name__ for error in ERRORS))
REFUSALS = ("ValueError", "RuntimeError", "KeyError")
"""What a forward pass may raise at a shape, to which it is then not traced."""


class Fault:
    """Called with what a part gives: at call number ``when``, and from there on if ``lasting``, gives
    something else or raises. Copies are itself.
    """

    def __init__(self, kind: str, when: int, lasting: bool) -> None:
        self.kind, self.when, self.lasting = kind, when, lasting
        self.calls, self.raised, self.struck = 0, [], False

    def __deepcopy__(self, memo: object) -> Fault:
        return self

    def __call__(self, value: Any = None) -> Any:
        self.calls += 1
        due = self.calls >= self.when if self.lasting else self.calls == self.when
        if not due or (self._tracing(value) and self.kind in REFUSALS):
            return value
        self.struck = True
        if self.kind in VALUES:
            if not isinstance(value, Tensor):
                return value
            first = torch.arange(value.numel(), device=value.device).view(value.shape) == 0
            return value * torch.where(first, VALUES[self.kind], 1.0)
        error = {e.__name__: e for e in ERRORS}[self.kind]("the fault")
        self.raised.append(error)
        raise error

    @staticmethod
    def _tracing(value: Any) -> bool:
        return isinstance(value, Tensor) and value.is_meta

    def reached(self, error: BaseException | None) -> bool:
        """Whether ``error`` is what was raised, or has it among its causes."""
        while error is not None:
            if any(error is one for one in self.raised):
                return True
            error = error.__cause__
        return False


class Net(nn.Module):
    def __init__(self, net: nn.Module, fault: Any) -> None:
        super().__init__()
        self.net, self.fault = net, fault

    def forward(self, x: Tensor) -> Tensor:
        return self.fault(self.net(x))


class Items(Dataset):
    def __init__(self, fault: Any) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.fault(X[i]), Y[i]


class Streamed(IterableDataset):
    def __init__(self, fault: Any) -> None:
        self.fault = fault

    def __iter__(self) -> Any:
        for x, y in zip(X, Y, strict=True):
            yield self.fault(x), y


class Order(Sampler):
    def __init__(self, fault: Any) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return len(X)

    def __iter__(self) -> Any:
        for i in torch.randperm(len(X)).tolist():
            self.fault()
            yield i


class Batches(DataLoader):
    fault: Any = None

    def __iter__(self) -> Any:
        for x, y in super().__iter__():
            yield self.fault(x), y


@dataclass(frozen=True)
class Around(Uniform):
    fault: Any = None

    def perturb(self, inputs: Tensor, draw: Any) -> Tensor:
        return self.fault(super().perturb(inputs, draw))


def same(value: Any = None) -> Any:
    return value
