"""The forward pass of a model as a function of its tensors: on copies, in evaluation mode, without hooks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from phiopt._attention import plain_attention
from phiopt._inputs import Inputs, apply_with, joined, mapped
from phiopt._modules import copied, state_of, unchanged, without_process_wide_hooks
from phiopt._outputs import tensors_of
from phiopt._types import Params
from phiopt.growth.departure import Gap
from phiopt.growth.example import REFUSALS, steady
from phiopt.growth.graph import Trace
from phiopt.growth.trace import trace

Outputs = list[Tensor]


@dataclass(frozen=True)
class Forward:
    """A model as a function of its tensors.

    Attributes:
        module: A copy of the model without its owner's hooks, in evaluation mode.
        tensors: Parameters and buffers that it runs with, by name. A forward pass works on copies of them.
    """

    module: nn.Module
    tensors: Params

    @classmethod
    def of(cls, module: nn.Module, double: bool) -> Forward:
        """A module with its own tensors; with ``double`` in float64 on the CPU."""
        copy = copied(module).eval()
        for part in copy.modules():
            _unhook(part)
        return cls(copy, {n: _copy(x, double) for n, x in state_of(copy).items()})

    def holding(self, tensors: Params) -> Forward:
        """The same model with other tensors, in the dtypes of its own tensors."""
        return Forward(self.module, {n: x.to(self.tensors[n]) for n, x in tensors.items()})

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(x.dtype for x in self.tensors.values() if x.is_floating_point())

    def placed(self, x: Inputs) -> Inputs:
        return mapped(
            lambda t: t.to(self.device, self.dtype if t.is_floating_point() else t.dtype), x
        )

    def __call__(self, x: Inputs, seed: int) -> Outputs:
        """The tensors among the outputs. The global generators start from ``seed``."""

        def run() -> object:
            _seed(seed)
            return apply_with(self.module, self._fresh(), self.placed(x))

        with plain_attention(), unchanged(self.module), without_process_wide_hooks():
            result = steady("forward", run)
        return tensors_of(result)

    def values(self, x: Inputs, seed: int) -> tuple[Trace, dict[int, Tensor]]:
        """The trace of a forward pass, and the results of its operations by the ids of the trace."""
        _seed(seed)
        keep: dict[int, Tensor] = {}
        with without_process_wide_hooks():
            run = trace(self.module, self.placed(x), values=True, tensors=self._fresh(), keep=keep)
        return run, keep

    def _fresh(self) -> Params:
        return {name: value.clone() for name, value in self.tensors.items()}


def on_each(model: Forward, batches: Sequence[Inputs], seed: int) -> list[Outputs | Exception]:
    """The outputs on each batch, or the error with which the model refuses it.

    The first batch has a forward pass of its own. The others share a pass if the model treats examples one by one. To
    see whether it does, the first example is put behind them once more.
    """
    first = _attempt(model, batches[0], seed)
    others = batches[1:]
    if len(others) > 1 and not isinstance(first, Exception):
        shared = _together(model, others, batches[0][:1], first, seed)
        if shared is not None:
            return [first, *shared]
    return [first, *(_attempt(model, x, seed) for x in others)]


def _together(
    model: Forward, batches: Sequence[Inputs], again: Inputs, before: Outputs, seed: int
) -> list[Outputs] | None:
    """The outputs on each batch, from one forward pass over all; ``None`` if examples influence each other."""
    outputs = _attempt(model, joined([*batches, again]), seed)
    sizes = [len(x) for x in (*batches, again)]
    if isinstance(outputs, Exception) or len(outputs) != len(before):
        return None
    for y, known in zip(outputs, before, strict=True):
        if y.ndim == 0 or len(y) != sum(sizes) or y[-1:].shape != known[:1].shape:
            return None
        close = torch.finfo(y.dtype).eps ** 0.5 if y.is_floating_point() else 0.0
        if Gap.between(known[:1], y[-1:]).relative > close:
            return None
    return [list(part) for part in zip(*(y.split(sizes) for y in outputs), strict=True)][:-1]


def _attempt(model: Forward, x: Inputs, seed: int) -> Outputs | Exception:
    try:
        return model(x, seed)
    except REFUSALS as error:
        return error


def _unhook(part: nn.Module) -> None:
    """Remove the hooks of the module's owner. The hooks by which PyTorch computes weights stay."""
    for name, hooks in vars(part).items():
        if name.endswith("_hooks") and isinstance(hooks, dict):
            for key, hook in list(hooks.items()):
                if not type(hook).__module__.startswith("torch.nn.utils"):
                    del hooks[key]


def _copy(x: Tensor, double: bool) -> Tensor:
    dtype = (
        torch.float64 if x.is_floating_point() else torch.complex128 if x.is_complex() else x.dtype
    )
    return x.detach().to("cpu", dtype, copy=True) if double else x.detach().clone()


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (a forward pass may draw from the global generator)
    torch.manual_seed(seed)
