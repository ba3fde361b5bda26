"""f(ψ(x), w): a module as a pure function of its parameters."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from phiopt._inputs import Inputs, apply_with, lifted
from phiopt._modules import evaluating, unchanged
from phiopt._outputs import outputs_of
from phiopt._types import Lift, Model, Params
from phiopt._vector import under

LIFT = ".lift."
"""Prefix of the names of ψ's own parameters, where these travel beside w. No parameter of a module has such a
name."""


def pure_model(
    student: nn.Module,
    lift: Lift,
    read: Callable[[object], Tensor] = outputs_of,
    *,
    shared: bool = False,
) -> Model:
    """The student's outputs on lifted inputs as a function of its parameters. ``read`` takes the tensor of outputs out
    of what the forward pass returns.

    The module is copied, so later changes to it do not reach the function. The copy is in evaluation mode: no
    dropout, and batch normalisation by its stored statistics. Tensors that ``params`` does not hold, such as
    buffers, stay as copied, even if a forward pass writes to them. A lift that is a module is treated alike; its
    parameters are those whose names begin with `LIFT`. Of several inputs a lift acts on the main one. With ``shared``
    the copies have the modules' own parameters, which must then belong to nobody else.
    """
    model = _function(student, shared)
    psi = _function(lift, shared) if isinstance(lift, nn.Module) else None

    def outputs(params: Params, inputs: Inputs) -> Tensor:
        own = under(LIFT, params)
        w = {name: p for name, p in params.items() if not name.startswith(LIFT)}
        inputs = inputs.clone()  # a forward that works in place must not reach the data
        return read(model(w, lifted((lambda x: psi(own, x)) if psi else lift, inputs)))

    return outputs


def _function(module: nn.Module, shared: bool) -> Callable[[Params, Inputs], Any]:
    """The module's forward pass as a function of its parameters and inputs."""
    module = evaluating(module, shared=shared)
    for parameter in module.parameters():
        parameter.requires_grad = False  # not requires_grad_(), which torch.func forbids
    buffers = dict(module.named_buffers())

    def forward(params: Params, inputs: Inputs) -> Any:
        fresh = {name: buffer.clone() for name, buffer in buffers.items()}
        with unchanged(module):
            return apply_with(module, fresh | params, inputs)

    return forward
