"""Each layer of a model as a scalar function of one vector, as it was called in a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from phiopt._inputs import Inputs, apply_to
from phiopt._modules import unchanged
from phiopt._types import Params
from phiopt._vector import to_params, to_vector
from phiopt.derivatives.calls import Call, recorded, tensors
from phiopt.derivatives.composite import differentiable


def layer_calls(model: nn.Module, inputs: Inputs) -> list[Call]:
    """The first call of each module that runs when ``model`` is called on ``inputs``. A module inside which no other
    module runs is a layer (``not call.inner``).

    ``model`` is changed: its embeddings lose their ``padding_idx``. PyTorch gives that row no gradient, so the table's
    gradient is not that of a function of the table.
    """
    for part in model.modules():
        if isinstance(part, nn.Embedding):
            part.padding_idx = None
    with recorded(model) as calls:
        apply_to(model, inputs)
    return calls


def as_scalar(call: Call, *, composite: bool) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """`waves` as a function of one vector, and the vector of the call."""
    function, like = waves(call, composite=composite)
    return (lambda vector: function(to_params(vector, like))), to_vector(like)


def waves(
    call: Call, *, composite: bool, trained: bool = False
) -> tuple[Callable[[Params], Tensor], Params]:
    """Σ sin z + sin² z over the outputs z of a layer, as a function of its parameters and floating inputs, and the
    values of these in the call.

    Args:
        call: The layer's call.
        composite: Whether to compute inside `differentiable`, or else with PyTorch's own kernels.
        trained: Whether to use only parameters and inputs that require grad.
    """
    params = {f"p{name}": p for name, p in call.module.named_parameters()}
    given = [t for t in tensors((call.args, call.kwargs)) if t.is_floating_point()]
    inputs = {f"x{i}": t for i, t in enumerate(given)}
    wanted = {n: t for n, t in (params | inputs).items() if t.requires_grad or not trained}
    places = {id(t): f"x{i}" for i, t in enumerate(given) if f"x{i}" in wanted}

    def function(values: Params) -> Tensor:
        state = {name[1:]: v for name, v in values.items() if name[0] == "p"}
        state |= {name: b.clone() for name, b in call.module.named_buffers()}
        args, kwargs = _replaced((call.args, call.kwargs), places, values)
        with differentiable() if composite else nullcontext(), unchanged(call.module):
            outputs = functional_call(call.module, state, args, kwargs)
            sines = [t.sin() for t in tensors(outputs) if t.is_floating_point()]
            nothing = torch.zeros((), device="cpu")
            return sum([(wave + wave * wave).sum() for wave in sines], nothing)

    return function, {name: t.detach() for name, t in wanted.items()}


def _replaced(value: Any, places: dict[int, str], values: Params) -> Any:
    """Nested arguments with other tensors in them. Each tensor is a copy, because a layer may write to its inputs."""
    if isinstance(value, Tensor):
        return values[places[id(value)]].clone() if id(value) in places else value.clone()
    if isinstance(value, dict):
        return {key: _replaced(item, places, values) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_replaced(item, places, values) for item in value]
        named = hasattr(value, "_fields")  # a PackedSequence is a named tuple
        return type(value)(*items) if named else type(value)(items)
    return value
