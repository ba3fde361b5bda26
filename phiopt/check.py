"""Which derivatives of a student can be trusted."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from phiopt._checks import count, instance, part, seed_of
from phiopt._inputs import Inputs, Targets, apply_to, apply_with, as_loss_takes, lifted
from phiopt._modules import evaluating
from phiopt._order import in_order
from phiopt._outputs import logits_of
from phiopt._randomness import preserved_randomness
from phiopt._types import Function, Lift, Loss
from phiopt._vector import to_params, to_vector
from phiopt.data import Data, Source, check_source, leaves_out
from phiopt.derivatives import differentiable
from phiopt.derivatives.calls import Call
from phiopt.derivatives.layers import as_scalar, layer_calls
from phiopt.derivatives.orders import Order, derivative_orders
from phiopt.derivatives.report import WHOLE, DerivativeReport, LayerReport
from phiopt.objective import Task, student_loss
from phiopt.objective.language import check_causal, check_decoder_inputs
from phiopt.objective.loss import check_labels

EXAMPLES = 4


@in_order
def check(
    student: nn.Module,
    data: Source,
    *,
    lift: Lift | None = None,
    loss: Loss | None = None,
    examples: int = EXAMPLES,
    seed: int = 0,
) -> DerivativeReport:
    """Compare a student's second, third and fourth derivatives with finite differences, layer by layer and as a whole.

        H v,    ∂/∂r ‖H v‖²,    ∂/∂v ∂/∂r ‖H v‖²      along random directions v, r

    The gradient of the curvature term ‖∂²L_f/∂w²‖² (paper, section 4, term 3) is a third derivative, and an adjoint
    of it is a fourth. The comparison is made in float64 on the CPU, on a copy in evaluation mode, both with PyTorch's
    own kernels and with those that φ's solver uses in their place.

    A layer is a module that runs no other module. It is differentiated in its parameters and its inputs. Where a
    layer has kinks (ReLU, max-pooling), its derivatives exist almost everywhere and leave the kinks out. The report
    names such layers.

    Args:
        student: Any module; never modified.
        data: ``(inputs, targets)``, a mapping with labels, a ``Dataset`` or a ``DataLoader``.
        lift: ψ, if the inputs are the teacher's; None: they are the student's.
        loss: ``l(outputs, targets)`` to losses of shape ``(batch,)``. None: cross-entropy of
            logits ``(batch, classes, ...)``.
        examples: Number of examples on which the derivatives are taken; default 4.
        seed: Seed of the directions.

    Returns:
        The `DerivativeReport`. ``print`` shows it as a table.

    Raises:
        ValueError, TypeError: An argument breaks its rule.

    Examples:
        >>> student = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3))
        >>> report = check(student, (torch.randn(8, 4), torch.randint(3, (8,))))
        >>> report.trusted
        4
        >>> report.layers[1].verdict  # LayerNorm
        'mended from order 3 on'
    """
    instance("student", student, nn.Module, "an nn.Module")
    check_source("data", data)
    for name, value in (("lift", lift), ("loss", loss)):
        if value is not None:
            part(name, value, Function)
    examples, seed = count("examples", examples), seed_of(seed)
    with torch.inference_mode(False), preserved_randomness(data, torch.device("cpu"), seed):
        model = evaluating(student).to("cpu", torch.float64).requires_grad_(True)
        generator = torch.Generator().manual_seed(seed)
        source = Data(data, torch.device("cpu"), torch.float64, default_loss=loss is None)
        inputs, targets = source.batch(examples, generator)
        x, y = inputs[:examples], targets[:examples]
        x = x if lift is None else lifted(lift, x)
        plain = (
            student_loss(None, torch.arange(0, device="cpu"), 1, restrict=False)
            if loss is None
            else loss
        )
        # Errors of the arguments are raised here. Further down they would count as failed derivatives.
        with torch.no_grad(), differentiable():
            outputs = _logits(model, x)
        if loss is None:
            check_decoder_inputs("data", student, x)
            if source.moved_labels:
                check_causal("data", lambda x: _logits(model, x).movedim(1, -1), x)
            check_labels("data", outputs, y, leaves_out(x))
        Task(lambda _, inputs: _logits(model, inputs), plain, x, y)({})
        calls = layer_calls(model, x.clone())
        layers = tuple(_layer(call, seed) for call in calls if not call.inner)
        return DerivativeReport(layers, _whole(model, plain, x, y, calls, seed))


def _logits(model: nn.Module, inputs: Inputs) -> Tensor:
    return logits_of(apply_to(model, inputs.clone()), "student")


def _layer(call: Call, seed: int) -> LayerReport:
    def orders(composite: bool) -> dict[int, Order]:
        function, at = as_scalar(call, composite=composite)
        return derivative_orders(function, at, seed, kinked=bool(call.kinks)) if len(at) else {}

    kind = type(call.module).__name__
    return LayerReport(call.name, kind, orders(False), orders(True), tuple(call.kinks))


def _whole(
    model: nn.Module, loss: Loss, x: Inputs, y: Targets, calls: list[Call], seed: int
) -> LayerReport:
    like = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def orders(composite: bool) -> dict[int, Order]:
        def scalar(w: Tensor) -> Tensor:
            state = to_params(w, like) | {name: b.clone() for name, b in buffers.items()}
            with differentiable() if composite else nullcontext():
                outputs = logits_of(apply_with(model, state, x.clone()))
                return loss(outputs, as_loss_takes(y)).mean()

        return derivative_orders(scalar, to_vector(like), seed, kinked=bool(kinks))

    kinks = tuple(sorted({kink for call in calls for kink in call.kinks}))
    return LayerReport(WHOLE, type(model).__name__, orders(False), orders(True), kinks)
