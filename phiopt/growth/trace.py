"""Record what a module computes, as a list of ATen operations.

The module runs once, in evaluation mode, on tensors without storage (device ``meta``) under a dispatch mode that sees
every operation below autograd, whether it came from a layer, a functional call or an operator. Nothing is allocated and
nothing is computed, so a large network traces in a fraction of a second. A module whose control flow needs values runs
on real tensors instead.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from phiopt._attention import plain_attention
from phiopt._modules import unchanged, without_process_wide_hooks
from phiopt._types import Params
from phiopt.growth.graph import Trace
from phiopt.growth.recorder import ListsAsTensors, Recorder


@torch.inference_mode(False)  # inference tensors keep composite operations whole
def trace(
    module: nn.Module,
    *inputs: Tensor,
    values: bool = False,
    tensors: Params | None = None,
    keep: dict[int, Tensor] | None = None,
) -> Trace:
    """Record the forward pass of ``module`` on inputs of these shapes and dtypes.

    Args:
        module: Run in evaluation mode; its tensors are never touched, and its mode and whatever the
            forward pass assigns to its attributes, such as a kept activation, are put back.
        inputs: Example inputs; with ``values=False`` only their shapes and dtypes matter.
        values: Compute with real values, for modules whose control flow depends on them.
        tensors: Values for all parameters and buffers in place of the module's own.
        keep: Filled with a copy of what every operation makes, by the id of its value.
    """
    state = tensors_of(module) if tensors is None else tensors
    if values:
        device = next(iter(state.values())).device
        given, state_in = (
            tuple(x.detach().to(device) for x in inputs),
            {k: v.detach() for k, v in state.items()},
        )
    else:
        given, state_in = (
            tuple(x.to("meta") for x in inputs),
            {k: v.to("meta") for k, v in state.items()},
        )
    recorder = Recorder(meta=not values, keep=keep)
    for x in (*given, *state_in.values()):
        recorder.taint(x)
    with (
        _in_evaluation_mode(module),
        torch.no_grad(),
        recorder.follow(module),
        _plain_kernels(),
        recorder,
        ListsAsTensors(),
    ):
        result = torch.func.functional_call(module, state_in, given)
    outputs = tuple(recorder.value(x) for x in tree_flatten(result)[0] if isinstance(x, Tensor))
    if not outputs:
        raise ValueError(f"the forward pass of {type(module).__name__} returned no tensor")
    return Trace(
        recorder.dependent(),
        tuple(recorder.value(x) for x in given),
        outputs,
        {recorder.value(v).id: k for k, v in state_in.items()},
        recorder.constants,
        {k: tuple(v.shape) for k, v in state.items()},
    )


def tensors_of(module: nn.Module) -> Params:
    """Parameters and buffers by name, each tensor once (tied ones under their first name)."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def names_of(module: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter and buffer, by its first; a tied one has several."""
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for listed in (module.named_parameters, module.named_buffers):
        for name, value in listed(remove_duplicate=False):
            names.setdefault(first.setdefault(id(value), name), []).append(name)
    return names


def aliases_of(module: nn.Module) -> dict[str, str]:
    """The first name of each tied tensor, by its others."""
    listed = names_of(module).items()
    return {name: first for first, names in listed for name in names if name != first}


@contextlib.contextmanager
def _in_evaluation_mode(module: nn.Module) -> Iterator[None]:
    with unchanged(module), _without_hooks(module), without_process_wide_hooks():
        for part in module.modules():
            part.training = False
        yield


@contextlib.contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """Without the user's forward hooks, which are for runs of the user's own. Those of PyTorch stay, as they compute
    weights."""
    taken = []
    for part in module.modules():
        for kind in ("_forward_pre_hooks", "_forward_hooks"):
            hooks = getattr(part, kind)
            kept = {
                key: hook
                for key, hook in hooks.items()
                if str(getattr(hook, "__module__", "")).startswith("torch.")
            }
            if len(kept) < len(hooks):
                taken.append((part, kind, hooks))
                setattr(part, kind, OrderedDict(kept))
    try:
        yield
    finally:
        for part, kind, hooks in taken:
            setattr(part, kind, hooks)


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Attention and recurrent layers as their elementary operations instead of one fused kernel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the flags below announce hardware that is not there
        with (
            plain_attention(),
            torch.backends.mkldnn.flags(enabled=False),
            torch.backends.cudnn.flags(enabled=False),
        ):
            yield
