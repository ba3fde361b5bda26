"""Repeat a computation with the same random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Generator

from phiopt.derivatives.mode import FunctionMode


class Repeated:
    """Inside ``with randomness.again():`` the global generators of PyTorch, NumPy and Python start from the states that
    they had when this object was made. Any other PyTorch generator starts from the state that it had at its first
    use. Afterwards all generators have these states again.
    """

    def __init__(self) -> None:
        self.states = _states()
        self.others: dict[Generator, torch.Tensor] = {}

    @contextmanager
    def again(self) -> Iterator[None]:
        _restore(self.states)
        for generator, state in self.others.items():
            generator.set_state(state)
        try:
            with _Generators(self.others):
                yield
        finally:
            _restore(self.states)
            for generator, state in self.others.items():
                generator.set_state(state)


class _Generators(FunctionMode):
    """Inside this context generators that are passed to functions are noted, with their states."""

    def __init__(self, states: dict[Generator, torch.Tensor]) -> None:
        super().__init__()
        self.states = states

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Generator) and value not in self.states:
                self.states[value] = value.get_state()
        return func(*args, **kwargs)


def _states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()  # noqa: NPY002


def _restore(states: tuple[Any, ...]) -> None:
    cpu, cuda, numpy, python = states
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy)  # noqa: NPY002
    random.setstate(python)
