"""Copies of modules, the state of modules, and contexts that leave a module unchanged."""

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

_LOCK = RLock()
_PROCESS_WIDE = ("_global_forward_pre_hooks", "_global_forward_hooks")
"""PyTorch's tables of the hooks that see the forward passes of every module."""


@contextmanager
def global_lock() -> Iterator[None]:
    """A process-wide lock. PyTorch's random generators are shared by all threads, and
    `functional_call` swaps a module's parameters while it runs.
    """
    with _LOCK:
        yield


def copied(module: Module, role: str | None = None, *, shared: bool = False) -> Module:
    """A deep copy of ``module``. Errors call the module ``role``. With ``shared`` both have the same parameters.

    ``deepcopy`` refuses results of a computation, such as an activation that a forward pass stored as an
    attribute. Here such tensors are copied without their graph. A copy made in inference mode can be
    trained.
    """
    attributes = tree_leaves([vars(part) for part in module.modules()])
    results = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    with torch.inference_mode(False):
        try:
            memo = {id(value): value.detach().clone() for value in results}
            memo |= {id(p): p for p in module.parameters()} if shared else {}
            return deepcopy(module, memo)
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
    """A copy of the student ``module`` with copies of ``tensors``, parameters and buffers by name. All others
    keep their values.

    A buffer that cannot hold its values where it is, because it is an expanded view or shares memory
    with another buffer, gets memory of its own.
    """
    copy = copied(module, "student")
    state = state_of(copy)
    with torch.no_grad():
        for name, value in tensors.items():
            if overlapping(state[name]):
                state[name].data = torch.empty(
                    state[name].shape, dtype=state[name].dtype, device=state[name].device
                )
            state[name].copy_(value)
        for name, value in tensors.items():
            wanted = value.detach().to(state[name])
            if not torch.equal(state[name], wanted):
                state[name].data = wanted.clone(memory_format=torch.contiguous_format)
    _forget_derived(copy)
    return copy


def _forget_derived(module: nn.Module) -> None:
    """Let a module drop what its forward pass has computed from its parameters and kept, such as attention biases.

    Modules that keep such tensors drop them in ``train()`` and ``eval()``.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.train(not module.training)
    module.train(not module.training)
    for part, mode in modes:
        part.training = mode


def overlapping(value: Tensor) -> bool:
    """Whether two entries of ``value`` may share memory, as in a tensor made by ``expand``."""
    if value.layout != torch.strided or value.numel() == 0:
        return False
    reach = 0
    axes = [(s, n) for s, n in zip(value.stride(), value.shape, strict=True) if n > 1]
    for stride, size in sorted(axes):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def evaluating(module: Module, *, shared: bool = False) -> Module:
    """A deep copy of ``module`` in evaluation mode and without backward hooks, to be differentiated as a
    function. `torch.func` refuses backward hooks. With ``shared`` both have the same parameters.
    """
    copy = copied(module, shared=shared).eval()
    for part in copy.modules():
        part._backward_hooks.clear()
        part._backward_pre_hooks.clear()
    return copy


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """After the block all attributes are what they were before: modes, stored activations, buffers, and tables that a
    forward pass fills. Tensors without storage, or of a transform, which a forward pass may store, would be of no
    use afterwards.
    """
    owned = [vars(part) for part in module.modules()]
    owned += [value for table in owned for value in table.values() if isinstance(value, dict)]
    before = [(table, dict(table)) for table in owned]
    try:
        yield
    finally:
        for table, content in before:
            table.clear()
            table.update(content)


@contextmanager
def without_process_wide_hooks() -> Iterator[None]:
    """Inside this context process-wide forward hooks do not see the forward passes of this thread."""
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


def unsaved(module: nn.Module) -> frozenset[str]:
    """Names of the buffers that no ``state_dict`` holds (``persistent=False``).

    They are constants of the architecture, such as a causal mask or rotary frequencies: another instance computes them
    anew. A tied buffer that some other module saves is saved.
    """
    named = {
        name: value
        for path, part in module.named_modules()
        for name, value in (
            (f"{path}.{n}".lstrip("."), part._buffers.get(n))
            for n in part._non_persistent_buffers_set
        )
        if value is not None
    }
    saved = {id(value) for value in module.state_dict(keep_vars=True).values()}
    return frozenset(name for name, value in named.items() if id(value) not in saved)


def copies(tensors: Params) -> Params:
    """The same numbers in tensors of their own, still attached to the graph."""
    return {name: value.clone() for name, value in tensors.items()}
