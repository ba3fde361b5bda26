"""Modules copied, and left as they were."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from threading import RLock, get_ident
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from phiopt._types import Params

Module = TypeVar("Module", bound=nn.Module)

_ALONE = RLock()
_PROCESS_WIDE = ("_global_forward_pre_hooks", "_global_forward_hooks")
"""PyTorch's tables of the hooks that see the forward passes of every module."""


@contextmanager
def alone() -> Iterator[None]:
    """One thread at a time, for all threads share PyTorch's generators, and the parameters of a
    module, which others take the place of while it runs as a function.
    """
    with _ALONE:
        yield


def copied(module: Module, role: str | None = None) -> Module:
    """A deep copy of ``module``, which is the argument ``role``.

    ``deepcopy`` alone refuses the results of a computation, such as an activation that a forward
    pass kept as an attribute; here they are copied off the graph. Copies made in inference mode can
    be trained all the same.
    """
    held = tree_leaves([vars(part) for part in module.modules()])
    results = [value for value in held if isinstance(value, Tensor) and not value.is_leaf]
    with torch.inference_mode(False):
        try:
            return deepcopy(module, {id(value): value.detach().clone() for value in results})
        except TypeError as error:
            raise TypeError(
                f"{f'{role}: ' if role else ''}{type(module).__name__} cannot be copied: {_uncopied(module)}{error}; "
                "keep such an object outside the module, or give its class a __deepcopy__"
            ) from error


def _uncopied(module: nn.Module) -> str:
    """The first attribute that refuses to be copied, with its type."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name in ("_parameters", "_buffers", "_modules") or isinstance(value, Tensor):
                continue
            try:
                deepcopy(value)
            except TypeError:
                where = f"{path}.{name}" if path else name
                return f"its attribute {where} is a {type(value).__name__}: "
    return ""


def with_tensors(module: Module, tensors: Params) -> Module:
    """A copy of the student ``module`` that holds copies of ``tensors``, parameters and buffers by name; the others
    keep their values.

    A buffer that cannot hold its values where it is, because it is an expanded view or shares memory
    with another buffer, gets memory of its own.
    """
    copy = copied(module, "student")
    held = state_of(copy)
    with torch.no_grad():
        for name, value in tensors.items():
            if overlapping(held[name]):
                held[name].data = torch.empty(
                    held[name].shape, dtype=held[name].dtype, device=held[name].device
                )
            held[name].copy_(value)
        for name, value in tensors.items():
            wanted = value.detach().to(held[name])
            if not torch.equal(held[name], wanted):
                held[name].data = wanted.clone(memory_format=torch.contiguous_format)
    return copy


def overlapping(value: Tensor) -> bool:
    """Whether two entries of ``value`` may be one place in memory, as in a tensor made by ``expand``."""
    if value.layout != torch.strided or value.numel() == 0:
        return False
    reach = 0
    axes = [(s, n) for s, n in zip(value.stride(), value.shape, strict=True) if n > 1]
    for stride, size in sorted(axes):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def evaluating(module: Module) -> Module:
    """A deep copy of ``module`` in evaluation mode, to be differentiated as a function: without
    backward hooks, which are for a backward pass of its owner's, and which `torch.func` cannot take.
    """
    copy = copied(module).eval()
    for part in copy.modules():
        part._backward_hooks.clear()
        part._backward_pre_hooks.clear()
    return copy


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Afterwards all attributes are what they were: modes, kept activations, and tables, of buffers
    too, that a forward pass fills. Filled on tensors without storage, or within a transform, they
    would be of no use outside.
    """
    owned = [vars(part) for part in module.modules()]
    owned += [value for held in owned for value in held.values() if isinstance(value, dict)]
    before = [(held, dict(held)) for held in owned]
    try:
        yield
    finally:
        for held, content in before:
            held.clear()
            held.update(content)


@contextmanager
def without_process_wide_hooks() -> Iterator[None]:
    """Within, hooks on the forward passes of every module do not see those of this thread."""
    own = get_ident()
    tables = [getattr(nn.modules.module, name) for name in _PROCESS_WIDE]
    before = [dict(table) for table in tables]

    def elsewhere(hook: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: None if get_ident() == own else hook(*args, **kwargs)

    for table, hooks in zip(tables, before, strict=True):
        table.update({key: elsewhere(hook) for key, hook in hooks.items()})
    try:
        yield
    finally:
        for table, hooks in zip(tables, before, strict=True):
            table.update({key: hook for key, hook in hooks.items() if key in table})


def state_of(module: nn.Module) -> Params:
    """Parameters and buffers by name: the module's own tensors."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def copies(tensors: Params) -> Params:
    """The same numbers in tensors of their own, still attached to the graph."""
    return {name: value.clone() for name, value in tensors.items()}
