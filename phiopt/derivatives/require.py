"""Refuse a model without a right third derivative, and name the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import grad

from phiopt._inputs import Inputs, apply_to, mapped
from phiopt._modules import evaluating
from phiopt._outputs import outputs_of
from phiopt._types import Params
from phiopt._vector import to_params, to_vector
from phiopt.derivatives.calls import (
    CUTTING,
    Call,
    Functions,
    Kernels,
    custom_functions,
    recorded,
)
from phiopt.derivatives.composite import differentiable
from phiopt.derivatives.hvp import linearise, square_norm
from phiopt.derivatives.layers import as_scalar, layer_calls
from phiopt.derivatives.orders import derivative_orders

# fmt: off
SILENTLY_WRONG = frozenset(
    {
        "native_layer_norm", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm",
        "miopen_batch_norm", "_batch_norm_with_update", "_weight_norm_interface",
    }
)
# fmt: on
"""Fused kernels whose derivatives are silently wrong. Where `differentiable` has a composite none of them runs."""

AUTHORED = "being written by hand, or cut by detach or torch.no_grad"


class Composed(Protocol):
    """A loss of outputs: see `phiopt.objective.Task`."""

    def __call__(self, params: Params) -> Tensor: ...
    def outputs(self, params: Params) -> Tensor: ...
    def of_outputs(self, outputs: Tensor) -> Tensor: ...


def require_derivatives(
    module: nn.Module,
    inputs: Inputs,
    loss: Composed,
    params: Params,
    weight: str = "lambdas.curvature",
) -> None:
    """Raise unless ∇‖H v‖² of ``loss`` can be computed at ``params`` and is right, as far as is known.

    Args:
        module: The student; not modified.
        inputs: A small batch of the student's inputs, on which the layer is searched for.
        loss: The student's loss on such a batch, under `differentiable`: a `phiopt.objective.Task`.
        params: The point.
        weight: The name, in errors, of the weight that asks for these derivatives.

    Raises:
        TypeError: A layer or the loss is compiled or scripted, runs kernels that cannot be replaced, is
            random in evaluation mode, has no third derivative, or has a wrong derivative that its author
            has written or cut (``detach``, ``torch.no_grad``). The message names the layer or the loss.

    The check costs one third derivative on a small batch. Only derivatives written by hand are compared with finite
    differences. `phiopt.check` compares every layer.
    """
    advice = f"with {weight} > 0 the solver needs third derivatives of every layer"
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule) or hasattr(part, "_orig_mod"):
            kind = type(part).__name__
            what = "its _orig_mod" if hasattr(part, "_orig_mod") else "what was scripted"
            raise TypeError(
                f"student: {_path(name)} is a {kind}, must be a plain module, {what}; {advice}"
            )
        if "householder" in str(getattr(part, "orthogonal_map", "")):
            raise TypeError(
                f"student: {_path(name)} makes its weight orthogonal by Householder reflections, "
                "whose signs jump where they are stored; take orthogonal_map='cayley', or "
                f"torch.nn.utils.parametrize.remove_parametrizations; {advice}"
            )
    model = evaluating(module).requires_grad_(True)
    with torch.enable_grad(), differentiable(), recorded(model) as calls:
        outputs = outputs_of(apply_to(model, inputs.clone()))
    for call in calls:
        for kernel in sorted(call.kernels & SILENTLY_WRONG):
            raise TypeError(
                f"student: {_path(call.name)} calls {kernel}, whose third derivative is wrong; "
                f"use torch.nn.functional's, outside of TorchScript; {advice}"
            )
    _require_of_loss(loss, params, advice)
    with torch.no_grad():
        first, second = loss(params), loss(params)
        if not torch.allclose(first, second, rtol=1e-5, equal_nan=True):
            raise TypeError(
                "student: two passes over one batch differ in evaluation mode, so it or ψ is random, and has no "
                f"Hessian; {advice}"
            )
    reason = _failure(lambda w: loss(w), params)
    if reason is not None:
        guilty = _innermost(calls, lambda call: _failure(*_layer(call)) is not None)
        where = ", ".join(map(_path, guilty)) or "its loss"
        raise TypeError(f"student: {where} has no third derivative ({reason}); {advice}")
    cut = any(call.functions & CUTTING and not _of_torch(call) for call in calls)
    if cut or any(custom_functions(outputs)):
        wrong = _wrong_layers(model.double(), inputs)
        if wrong:
            raise TypeError(
                f"student: the backward of {', '.join(map(_path, wrong))} disagrees with finite "
                f"differences beyond the first derivative, {AUTHORED}; {advice}"
            )


def undifferentiable(module: nn.Module, inputs: Inputs) -> list[str]:
    """Paths of the innermost layers whose first derivative ``torch.func`` cannot take."""
    model = evaluating(module).requires_grad_(True)
    with torch.enable_grad(), differentiable(), recorded(model) as calls:
        apply_to(model, inputs.clone())

    def fails(call: Call) -> bool:
        function, at = _layer(call)
        try:
            grad(function)(at)
        except RuntimeError:
            return True
        return False

    return _innermost(calls, fails)


def _require_of_loss(loss: Composed, params: Params, advice: str) -> None:
    """`require_derivatives` of the loss, as a function of the outputs."""
    with torch.enable_grad():
        outputs = loss.outputs(params).detach().requires_grad_()
        kernels: set[str] = set()
        functions: set[str] = set()
        with Functions(lambda: functions), Kernels(lambda: kernels):
            value = loss.of_outputs(outputs)
    for kernel in sorted(kernels & SILENTLY_WRONG):
        raise TypeError(f"loss: calls {kernel}, whose third derivative is wrong; {advice}")
    if not (functions & CUTTING or any(custom_functions(value))):
        return
    like = {"z": outputs.detach().double()}

    def function(z: Tensor) -> Tensor:
        return loss.of_outputs(to_params(z, like)["z"])

    orders = derivative_orders(function, to_vector(like), kinked=True)  # it may be
    for order in (2, 3):
        if not orders[order].holds:
            why = orders[order].reason or "they disagree"
            raise TypeError(
                "loss: its backward was compared with finite differences in float64, "
                f"and derivative {order} does not hold ({why}), {AUTHORED}; {advice}"
            )


def _wrong_layers(model: nn.Module, inputs: Inputs) -> list[str]:
    """The innermost user-written modules whose derivatives differ from finite differences."""

    def wrong(call: Call) -> bool:
        if _of_torch(call):
            return False
        # This module may have no kinks, and an inner module have some.
        orders = derivative_orders(*as_scalar(call, composite=True), kinked=True)
        return not (orders[2].holds and orders[3].holds)

    inputs = mapped(lambda x: x.double() if x.is_floating_point() else x.clone(), inputs)
    return _innermost(layer_calls(model, inputs), wrong)


def _of_torch(call: Call) -> bool:
    return type(call.module).__module__.startswith("torch.nn")


def _innermost(calls: list[Call], guilty: Callable[[Call], bool]) -> list[str]:
    """Names of the guilty calls inside which no other guilty call ran."""
    names: list[str] = []
    for call in reversed(calls):  # inner ones were called last
        inner = any(name.startswith(f"{call.name}.") or not call.name for name in names)
        if not inner and guilty(call):
            names.append(call.name)
    return names[::-1]


def _failure(function: Callable[[Params], Tensor], params: Params) -> str | None:
    """Why there is no third derivative; None if there is one. An error that a second call does not repeat is raised."""
    probes = {name: torch.ones_like(p) for name, p in params.items()}

    def derivative() -> Params:
        return grad(lambda w: square_norm(linearise(function, w).hvp(probes)))(params)

    try:
        third = derivative()
    except (RuntimeError, NotImplementedError) as error:
        try:
            derivative()
        except (RuntimeError, NotImplementedError):
            return str(error).strip().split("\n")[0]
        raise
    if all(value.isfinite().all() for value in third.values()):
        return None
    if not function(params).isfinite():
        return None  # the solver reports it, after more examples
    return "it is NaN or infinite at the start, as that of a root or a norm at 0 is"


def _layer(call: Call) -> tuple[Callable[[Params], Tensor], Params]:
    function, at = as_scalar(call, composite=True)
    return (lambda w: function(w["w"])), {"w": at}


def _path(name: str) -> str:
    return name or "the module itself"
