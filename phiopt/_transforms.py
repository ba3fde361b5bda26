"""Transforms of ``torch.func`` around a call, and how to work outside of them.

Within a transform every operation is the transform's, also on constants: what it returns has no
storage to look at, and no say for `torch.autograd`. Work that is not to be differentiated is done
outside, on plain tensors.
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
    """Whether a transform of ``torch.func`` is under way, within which `torch.autograd` has no say."""
    return torch._C._functorch.peek_interpreter_stack() is not None


@contextmanager
def outside_transforms() -> Iterator[Any]:
    """Within, no transform is under way; gives what `inside_transforms` goes back by."""
    with temporarily_clear_interpreter_stack() as stack:
        yield stack


@contextmanager
def inside_transforms(stack: Any) -> Iterator[None]:
    """Within, the transforms are under way again that `outside_transforms` left."""
    with temporarily_restore_interpreter_stack(stack):
        yield


def wrapped(value: Any) -> bool:
    """Whether ``value`` is a tensor of a transform."""
    return isinstance(value, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value)


def batched(value: Tensor) -> bool:
    """Whether ``value`` stands for many, under `torch.vmap`."""
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        if torch._C._functorch.is_batchedtensor(value):
            return True
        value = torch._C._functorch.get_unwrapped(value)
    return False


def differentiated(value: Any) -> bool:
    """Whether ``value`` is a tensor in which, by either mode, a derivative may be asked for."""
    if not isinstance(value, Tensor):
        return False
    return wrapped(value) or value.requires_grad or has_tangent(value)


def has_tangent(value: Tensor) -> bool:
    """Whether forward mode is under way in ``value``."""
    return forward_ad.unpack_dual(value).tangent is not None


def numbers(value: Tensor) -> Tensor:
    """The numbers of ``value``, off every graph and transform; under `torch.vmap` those of all that it
    stands for.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        value = torch._C._functorch.get_unwrapped(value)
    with outside_transforms():
        return value.detach()


def plain(name: str, value: Tensor) -> Tensor:
    """The numbers of ``value``, off every graph and transform.

    Raises ``ValueError`` by ``name`` if they are many, under `torch.vmap`.
    """
    if batched(value):
        raise ValueError(
            f"{name}: is batched by torch.vmap, but each solve goes its own way; call in a loop, or "
            "give many points λ to phiopt.solve.solve_many"
        )
    return numbers(value)
