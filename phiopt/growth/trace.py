"""Record what a module computes, as a list of ATen operations.

The module runs once, in evaluation mode, on tensors without storage (device ``meta``). A dispatch mode sees every
operation below autograd: of layers, functional calls and operators alike. Nothing is allocated or computed, so a large
network traces in a fraction of a second. A module whose control flow needs values runs on real tensors.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from phiopt._attention import plain_attention
from phiopt._inputs import Inputs, apply_with, main_first, mapped
from phiopt._modules import state_of, unchanged, unsaved, without_process_wide_hooks
from phiopt._outputs import tensors_of
from phiopt._types import Params
from phiopt.growth.graph import Node, Trace, Value
from phiopt.growth.recorder import ListsAsTensors, Recorder
from phiopt.growth.repeated import with_repeats


@torch.inference_mode(False)  # inference tensors keep composite operations whole
def trace(
    module: nn.Module,
    inputs: Inputs,
    *,
    values: bool = False,
    tensors: Params | None = None,
    keep: dict[int, Tensor] | None = None,
) -> Trace:
    """Record the forward pass of ``module`` on inputs of these shapes and dtypes.

    Args:
        module: Run in evaluation mode. Its tensors are never touched. Its mode is put back, and so are attributes
            that the forward pass assigns, such as a kept activation.
        inputs: Example inputs. With ``values=False`` only their shapes and dtypes matter. The input that ψ acts on
            is the first of the trace's inputs.
        values: Compute with real values, for modules whose control flow depends on them.
        tensors: Values for all parameters and buffers in place of the module's own.
        keep: A dictionary that is filled with copies of all results, by the ids of their values.
    """
    state = state_of(module) if tensors is None else tensors
    if values:
        device = next(iter(state.values())).device
        given, state_in = (
            mapped(lambda x: x.detach().to(device), inputs),
            {k: v.detach() for k, v in state.items()},
        )
    else:
        given, state_in = (
            mapped(lambda x: x.to("meta"), inputs),
            {k: v.to("meta") for k, v in state.items()},
        )
    recorder = Recorder(meta=not values, keep=keep)
    constant = unsaved(module)
    for name, x in state_in.items():
        if name in constant:
            recorder.enter(x, state[name])
        else:
            recorder.taint(x)
    for x in main_first(given):
        recorder.taint(x)
    parameters = dict(module.named_parameters())
    # A forward pass may change a parameter in place. Its name is that of the value before.
    before = {k: recorder.value(x) for k, x in state_in.items() if k in parameters}
    with (
        _in_evaluation_mode(module),
        torch.no_grad(),
        recorder.follow(module),
        _plain_kernels(),
        recorder,
        ListsAsTensors(),
    ):
        result = apply_with(module, state_in, given)
    outputs = tuple(recorder.value(x) for x in tensors_of(result))
    if not outputs:
        raise ValueError(f"the forward pass of {type(module).__name__} returned no tensor")
    return Trace(
        with_repeats(_read(recorder.dependent(), outputs)),
        tuple(recorder.value(x) for x in main_first(given)),
        outputs,
        {before.get(k, recorder.value(v)).id: k for k, v in state_in.items() if k not in constant},
        recorder.constants,
        {k: tuple(v.shape) for k, v in state.items() if k not in constant},
        frozenset(dict(module.named_buffers())),
    )


def _read(nodes: Sequence[Node], outputs: Sequence[Value]) -> list[Node]:
    """The operations whose results lead to an output, or that write to a tensor. Of others only a shape is read."""
    needed = {o.id for o in outputs}
    kept: list[Node] = []
    for node in reversed(nodes):
        aliases = (argument.alias_info for argument in node.target._schema.arguments)
        writes = any(alias is not None and alias.is_write for alias in aliases)
        if writes or any(o.id in needed for o in node.outputs):
            needed |= {v.id for v in node.inputs}
            kept.append(node)
    return kept[::-1]


def names_of(module: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter and buffer, by its first name. A tied tensor has several."""
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for listed in (module.named_parameters, module.named_buffers):
        for name, value in listed(remove_duplicate=False):
            names.setdefault(first.setdefault(id(value), name), []).append(name)
    return names


def aliases_of(module: nn.Module) -> dict[str, str]:
    """The first name of each tied tensor, by each of its other names."""
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
    """Take out the user's forward hooks, which are for the user's own runs. PyTorch's hooks stay: they compute
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
    """Run attention and recurrent layers as elementary operations instead of fused kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the flags below announce hardware that is not there
        with (
            plain_attention(),
            torch.backends.mkldnn.flags(enabled=False),
            torch.backends.cudnn.flags(enabled=False),
        ):
            yield
