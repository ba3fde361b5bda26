"""Who cuts a gradient, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from phiopt._types import Params
from phiopt.derivatives.calls import Call, tensors
from phiopt.derivatives.composite import differentiable
from phiopt.derivatives.gradients import Function, mismatch
from phiopt.derivatives.layers import layer_calls, waves

Wrap = Callable[[Function], Function]

_data: Any = torch.Tensor.data
CUTS: dict[Any, str] = {
    torch.Tensor.detach: "detach",
    torch.detach: "detach",
    torch.Tensor.detach_: "detach_",
    _data.__get__: ".data",
    _data.__set__: ".data",
    torch._C._set_grad_enabled: "torch.no_grad",
    torch.Tensor.item: "item",
    torch.Tensor.tolist: "tolist",
    torch.Tensor.numpy: "numpy",
    torch.Tensor.__float__: "float",
    torch.Tensor.__int__: "int",
    torch.Tensor.register_hook: "register_hook",
}
"""Functions that leave a part out of the derivative, or change it."""
JUMPS: dict[Any, str] = {
    getattr(home, name): name
    for home in (torch, torch.Tensor)
    for name in ("round", "floor", "ceil", "trunc", "sign", "argmax", "argmin", "bucketize", "long")
    if hasattr(home, name)
} | {torch.Tensor.int: "int", torch.Tensor.bool: "bool"}
"""Functions whose derivative is zero where it exists."""


class Guilty(NamedTuple):
    """A layer by its path, or the loss (None): its type, and what it calls that ``cuts``."""

    name: str | None
    kind: str
    cuts: tuple[str, ...]
    jumps: tuple[str, ...]


def guilty_layers(model: nn.Module, inputs: Tensor, wrap: Wrap) -> list[Guilty]:
    """The innermost modules whose outputs have a wrong gradient in their parameters and inputs, in
    the order in which they run; of these, those that require grad.

    ``model`` is the caller's to change, in evaluation mode. ``wrap`` puts a function where it is to
    be called.
    """
    found: list[tuple[str, Guilty]] = []
    for call in reversed(_calls(model, inputs, wrap)):  # inner ones were called last
        prefix = f"{call.name}." if call.name else ""
        if any(name.startswith(prefix) and name != call.name for name, _ in found):
            continue
        function, at = waves(call, composite=True, trained=True)
        kind = type(call.module).__name__
        found += [(call.name, g) for g in guilty_function(wrap(function), at, call.name, kind)]
    return [guilty for _, guilty in reversed(found)]


def _calls(model: nn.Module, inputs: Tensor, wrap: Wrap) -> list[Call]:
    seen: list[Call] = []

    def run(params: Params) -> Tensor:
        with torch.enable_grad(), differentiable():
            seen.extend(layer_calls(model, inputs))
        return inputs

    wrap(run)({})
    return seen


def guilty_function(function: Function, at: Params, name: str | None, kind: str) -> list[Guilty]:
    """The function itself, if its gradient is wrong."""
    try:
        if not at or mismatch(function, at) is None:
            return []
    except (RuntimeError, ValueError, TypeError, IndexError):
        return []
    seen: dict[Any, None] = {}
    with torch.enable_grad(), _Noted(seen):
        value = function({name: p.detach().requires_grad_() for name, p in at.items()})
    cuts = [CUTS[f] for f in seen if f in CUTS]
    cuts += [f"the backward of {name}" for name in _by_hand(value)]
    jumps = [JUMPS[f] for f in seen if f in JUMPS]
    return [Guilty(name, kind, *(tuple(dict.fromkeys(names)) for names in (cuts, jumps)))]


def _by_hand(value: Tensor) -> Iterator[str]:
    """Names of the ``torch.autograd.Function``s that took part."""
    seen, todo = set(), [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "_forward_cls"):
            yield node._forward_cls.__name__
        todo.extend(following for following, _ in node.next_functions)


class _Noted(TorchFunctionMode):
    """Within, functions that are called on something that requires grad, or on nothing, are noted."""

    def __init__(self, seen: dict[Any, None]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = tensors((args, kwargs or {}))
        if func in CUTS or func in JUMPS:
            tracked = any(t.requires_grad for t in given)
            if tracked or (not given and args[:1] != (True,)):
                self.seen[func] = None
        return func(*args, **(kwargs or {}))
