"""Transforms of ``torch.func`` around a call, and work outside of them.

Inside a transform every operation belongs to the transform, even on constants. Its result has no storage, and
`torch.autograd` does not record it. Work that must not be differentiated is done outside, on plain tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import (
    temporarily_clear_interpreter_stack,
    temporarily_restore_interpreter_stack,
)
from torch.autograd import forward_ad


def in_transform() -> bool:
    """Whether a transform of ``torch.func`` is active; `torch.autograd` records nothing inside."""
    return torch._C._functorch.peek_interpreter_stack() is not None


@contextmanager
def outside_transforms() -> Iterator[Any]:
    """Inside this context no transform is active. Yields the argument of `inside_transforms`."""
    with temporarily_clear_interpreter_stack() as stack:
        yield stack


@contextmanager
def inside_transforms(stack: Any) -> Iterator[None]:
    """Inside this context the transforms outside of `outside_transforms` are active again."""
    with temporarily_restore_interpreter_stack(stack):
        yield


def wrapped(value: Any) -> bool:
    """Whether ``value`` is a tensor of a transform."""
    return isinstance(value, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value)


def batched(value: Tensor) -> bool:
    """Whether ``value`` stands for many tensors, under `torch.vmap`."""
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        if torch._C._functorch.is_batchedtensor(value):
            return True
        value = torch._C._functorch.get_unwrapped(value)
    return False


def differentiated(value: Any) -> bool:
    """Whether ``value`` is a tensor with respect to which a derivative may be taken, in either mode."""
    if not isinstance(value, Tensor):
        return False
    return wrapped(value) or value.requires_grad or has_tangent(value)


def has_tangent(value: Tensor) -> bool:
    """Whether ``value`` carries a tangent of forward mode."""
    return forward_ad.unpack_dual(value).tangent is not None


def numbers(value: Tensor) -> Tensor:
    """The numbers of ``value``, without graph or transform. Under `torch.vmap` those of all tensors that
    ``value`` stands for.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        value = torch._C._functorch.get_unwrapped(value)
    with outside_transforms():
        return value.detach()


def plain(name: str, value: Tensor) -> Tensor:
    """The numbers of ``value``, without graph or transform.

    Raises ``ValueError`` by ``name`` if ``value`` stands for many tensors, under `torch.vmap`.
    """
    if batched(value):
        raise ValueError(
            f"{name}: is batched by torch.vmap, but solves cannot be batched; call in a loop, or "
            "give many points λ to phiopt.solve.solve_many"
        )
    return numbers(value)
