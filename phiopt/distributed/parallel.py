"""Data-parallel evaluation with ``torch.distributed``: each process takes its share of a batch.

Every process runs the same sample, terms and solver. Only the model's forward pass and its derivatives are shared out.
The outputs, a few numbers for each example, are gathered in all processes. So terms that are not linear in the batch,
such as ‖H v‖², are exact. A forward pass costs an all-reduce of the outputs' size, and a backward pass one of the
parameters' size, as in `torch.nn.parallel.DistributedDataParallel`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from phiopt._inputs import Inputs
from phiopt._types import Model, Params
from phiopt._vector import to_params, to_vector
from phiopt.distributed.exchange import all_reduce


class _Sum(torch.autograd.Function):
    """Σ over processes, with the same result in each. Every process computes the same from the sum, so the sum's
    derivative is `_Same`.
    """

    @staticmethod
    def forward(x: Tensor, group: ProcessGroup) -> Tensor:
        total = x.contiguous().clone()
        all_reduce(total, group)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ProcessGroup], output: Tensor) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Same.apply(grad, ctx.group), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _Sum.apply(tangent, ctx.group)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, group: ProcessGroup) -> tuple[Tensor, Any]:
        return _Sum.apply(x, group), in_dims[0]


class _Same(torch.autograd.Function):
    """The identity on a value that is the same in all processes. After it each process computes on its own examples,
    so the derivatives are summed, by `_Sum`.
    """

    @staticmethod
    def forward(x: Tensor, group: ProcessGroup) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ProcessGroup], output: Tensor) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(grad, ctx.group), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _Same.apply(tangent, ctx.group)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, group: ProcessGroup) -> tuple[Tensor, Any]:
        return _Same.apply(x, group), in_dims[0]


def data_parallel(model: Model, group: ProcessGroup) -> Model:
    """The same function of parameters and inputs, computed by all processes of the group together.

    Each must call it with the same arguments and in the same order. Rank r evaluates rows
    ⌊n r / p⌋ to ⌊n (r + 1) / p⌋ of a batch of n; a batch smaller than the group is evaluated whole
    by each. Derivatives of any order are those of the whole batch.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)

    def outputs(params: Params, inputs: Inputs) -> Tensor:
        n = len(inputs)
        if n < size:
            return model(params, inputs)
        first, last = n * rank // size, n * (rank + 1) // size
        own = model(_shared(params, group), inputs[first:last])
        before = own.new_zeros(first, *own.shape[1:])
        after = own.new_zeros(n - last, *own.shape[1:])
        return _Sum.apply(torch.cat([before, own, after]), group)

    return outputs


def _shared(params: Params, group: ProcessGroup) -> Params:
    """All parameters through `_Same` as one vector, so that a backward pass has one all-reduce."""
    return to_params(_Same.apply(to_vector(params), group), params)
