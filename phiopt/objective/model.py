"""f(ψ(x), w): a module as a pure function of its parameters."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from phiopt._modules import evaluating, unchanged
from phiopt._outputs import outputs_of
from phiopt._types import Lift, Model, Params
from phiopt._vector import under

LIFT = ".lift."
"""Prefix of the names of ψ's own parameters, where these travel beside w. No parameter of a module has such a
name."""


def pure_model(student: nn.Module, lift: Lift) -> Model:
    """The student's outputs on lifted inputs as a function of its parameters.

    The module is copied, so later changes to it do not reach the function. The copy is in evaluation mode: no
    dropout, and batch normalisation by its stored statistics. Tensors that ``params`` does not hold, such as
    buffers, stay as copied, even if a forward pass writes to them. A lift that is a module is treated alike; its
    parameters are those whose names begin with `LIFT`.
    """
    model = _function(student)
    lifted = _function(lift) if isinstance(lift, nn.Module) else None

    def outputs(params: Params, inputs: Tensor) -> Tensor:
        psi = under(LIFT, params)
        w = {name: p for name, p in params.items() if not name.startswith(LIFT)}
        inputs = inputs.clone()  # a forward that works in place must not reach the data
        return outputs_of(model(w, lifted(psi, inputs) if lifted else lift(inputs)))

    return outputs


def _function(module: nn.Module) -> Callable[[Params, Tensor], Any]:
    """The module's forward pass as a function of its parameters and of an input."""
    module = evaluating(module)
    for parameter in module.parameters():
        parameter.requires_grad = False  # not requires_grad_(), which torch.func forbids
    buffers = dict(module.named_buffers())

    def forward(params: Params, inputs: Tensor) -> Any:
        fresh = {name: buffer.clone() for name, buffer in buffers.items()}
        with unchanged(module):
            return functional_call(module, fresh | params, (inputs,))

    return forward
