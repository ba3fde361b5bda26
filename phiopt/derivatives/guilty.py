"""Find the layers that cut a gradient, or the loss, and the calls by which they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from phiopt._inputs import Inputs, apply_to
from phiopt._modules import unchanged
from phiopt._types import Params
from phiopt.derivatives.calls import Call, custom_functions, tensors
from phiopt.derivatives.composite import differentiable
from phiopt.derivatives.gradients import Function, mismatch
from phiopt.derivatives.layers import layer_calls, waves
from phiopt.derivatives.mode import FunctionMode

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


_NOTHING = torch.empty(0)
"""What a function returns that is called for what happens in it."""

LARGER = (3.0, 10.0)
"""Factors of larger inputs, at which a backward pass written by hand is looked at too."""


class Guilty(NamedTuple):
    """A layer with a wrong gradient, or the loss.

    Args:
        name: The layer's path; None for the loss.
        kind: The layer's type.
        cuts: Functions it calls that cut a gradient.
        jumps: Functions it calls whose derivative is zero.
        larger: The factor of the inputs at which the gradient is wrong.
    """

    name: str | None
    kind: str
    cuts: tuple[str, ...]
    jumps: tuple[str, ...]
    larger: float = 1.0


def guilty_layers(model: nn.Module, inputs: Inputs, wrap: Wrap) -> list[Guilty]:
    """The innermost modules whose outputs have a wrong gradient in those of their parameters and inputs
    that require grad, in the order in which the modules run.

    ``model`` is in evaluation mode and may be changed. ``wrap`` gives a function the context in which it is
    to be called.
    """
    culprits: list[tuple[str, Guilty]] = []
    for call in reversed(_calls(model, inputs, wrap)):  # inner ones were called last
        prefix = f"{call.name}." if call.name else ""
        if any(name.startswith(prefix) and name != call.name for name, _ in culprits):
            continue
        function, at = waves(call, composite=True, trained=True)
        kind = type(call.module).__name__
        culprits += [(call.name, g) for g in guilty_function(wrap(function), at, call.name, kind)]
    return [guilty for _, guilty in reversed(culprits)]


def guilty_by_hand(model: nn.Module, inputs: Inputs, wrap: Wrap) -> list[Guilty]:
    """The innermost modules with a ``torch.autograd.Function`` whose gradient is wrong at larger inputs. A backward
    pass written by hand may be right at some inputs only.
    """
    culprits: list[Guilty] = []
    names: list[str] = []
    for call in reversed(_calls(model, inputs, wrap)):  # inner ones were called last
        function, at = waves(call, composite=True, trained=True)
        prefix = f"{call.name}." if call.name else ""
        inner = any(name.startswith(prefix) and name != call.name for name in names)
        if not inner and written_by_hand(wrap(function), at):
            names.append(call.name)
            culprits += larger(wrap(function), at, call.name, type(call.module).__name__, "x")
    return culprits[::-1]


def written_by_hand(function: Function, at: Params) -> bool:
    """Whether a ``torch.autograd.Function`` takes part in the function."""
    with torch.enable_grad():
        value = function({name: p.detach().requires_grad_() for name, p in at.items()})
    return any(custom_functions(value))


def larger(
    function: Function, at: Params, name: str | None, kind: str, inputs: str
) -> list[Guilty]:
    """`guilty_function` at larger values of those arguments whose names begin with ``inputs``."""
    for times in LARGER:
        scaled = {n: times * p if n.startswith(inputs) else p for n, p in at.items()}
        for guilty in guilty_function(function, scaled, name, kind):
            return [guilty._replace(larger=times)]
    return []


def _calls(model: nn.Module, inputs: Inputs, wrap: Wrap) -> list[Call]:
    calls: list[Call] = []

    def run(params: Params) -> Tensor:
        with torch.enable_grad(), differentiable(), unchanged(model):
            calls.extend(layer_calls(model, inputs))
        return _NOTHING

    wrap(run)({})
    return calls


def guilty_function(function: Function, at: Params, name: str | None, kind: str) -> list[Guilty]:
    """The function itself, if its gradient is wrong."""
    try:
        if not at or mismatch(function, at) is None:
            return []
    except (RuntimeError, ValueError, TypeError, IndexError):
        return []
    called: dict[Any, None] = {}
    with torch.enable_grad(), _Noted(called):
        value = function({name: p.detach().requires_grad_() for name, p in at.items()})
    cuts = [CUTS[f] for f in called if f in CUTS]
    cuts += [f"the backward of {name}" for name in custom_functions(value)]
    jumps = [JUMPS[f] for f in called if f in JUMPS]
    return [Guilty(name, kind, tuple(dict.fromkeys(cuts)), tuple(dict.fromkeys(jumps)))]


def unsteady_layer(model: nn.Module, inputs: Inputs, wrap: Wrap) -> Guilty | None:
    """The first innermost module whose outputs change when a gradient is recorded.

    ``model`` is in evaluation mode and may be changed.
    """
    without, recorded = (_outputs(model, inputs, wrap, recording) for recording in (False, True))
    for (name, ours), (_, theirs) in zip(without, recorded, strict=False):
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, equal_nan=True):
            return Guilty(name, type(model.get_submodule(name)).__name__, (), ())
    return None


def _outputs(
    model: nn.Module, inputs: Inputs, wrap: Wrap, recording: bool
) -> list[tuple[str, Tensor]]:
    """The modules' outputs by name, those of inner modules first."""
    named: list[tuple[str, Tensor]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, outputs: object) -> None:
            named.extend((name, t.detach().clone()) for t in tensors(outputs))

        return hook

    hooks = [m.register_forward_hook(note(name)) for name, m in model.named_modules()]

    def run(params: Params) -> Tensor:
        with torch.set_grad_enabled(recording), differentiable():
            apply_to(model, inputs.clone())
        return _NOTHING

    try:
        trained = {p: p.requires_grad for p in model.parameters()}
        for p, learned in trained.items():
            p.requires_grad_(learned and recording)
        wrap(run)({})
        for p, learned in trained.items():
            p.requires_grad_(learned)
    finally:
        for handle in hooks:
            handle.remove()
    return named


class _Noted(FunctionMode):
    """Inside this context `CUTS` and `JUMPS` are noted that are called on a tensor that requires grad, or on none."""

    def __init__(self, called: dict[Any, None]) -> None:
        super().__init__()
        self.called = called

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = tensors((args, kwargs))
        if func in CUTS or func in JUMPS:
            tracked = any(t.requires_grad for t in given)
            if tracked or (not given and args[:1] != (True,)):
                self.called[func] = None
        return func(*args, **kwargs)
