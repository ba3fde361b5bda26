"""The checks that `pose` makes of the student and the loss, on a few examples and before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad

from phiopt._inputs import Inputs, dtypes_of, lifted, main_of, shapes_of
from phiopt._types import Lift, Loss, Params
from phiopt.derivatives import require_derivatives
from phiopt.derivatives.require import undifferentiable
from phiopt.objective import Objective, Task
from phiopt.objective.examples import telling_examples
from phiopt.objective.language import check_causal, check_decoder_inputs
from phiopt.objective.verify import verify_gradient
from phiopt.solve import NO_DERIVATIVES


def check_task(
    student: nn.Module,
    lift: Lift,
    objective: Objective,
    params: Params,
    class_axis: int | None,
    apart: Mapping[str, object],
) -> Callable[[], bool]:
    """Check that the student runs, that the loss has one value for each example, and that both have the derivatives
    that are needed.

    Args:
        student: Holds w0.
        lift: ψ.
        objective: L. The derivatives are those that its terms with weight take.
        params: The point.
        class_axis: The outputs' axis of classes for the default loss; None for a loss of the user's.
        apart: Arguments, by name, with which a batch is divided. Such an argument is not None.

    Returns:
        A function that says whether the student and the loss have third derivatives. If a term with weight takes
        them they do, or this raises. Else they are examined at the first call.

    Raises:
        ValueError, TypeError: Something is missing or wrong; the message names the argument.
    """
    data = objective.data
    assert data is not None, "a term with weight needs data"
    inputs, targets = data.example
    task = Task(objective.model, objective.loss, inputs[:2], targets[:2])
    x, y = data.spread()
    places = telling_examples(x, y).to(main_of(x).device)
    telling = replace(task, inputs=x[places], targets=y[places])
    if class_axis is not None:
        check_decoder_inputs("data", student, task.inputs)
    _check_loss(task, params, class_axis)
    if class_axis is not None and data.moved_labels:
        model = partial(objective.model, params)
        check_causal("data", lambda x: model(x).movedim(class_axis, -1), task.inputs)
    for name, value in apart.items():
        if value is not None:
            _check_apart(task, params, name)
    weighted = [term for term in objective.terms if term.name in objective.active]
    weights = [objective.weight_name(t.name) for t in weighted if t.over != "parameters"]
    third = [objective.weight_name(t.name) for t in weighted if t.third_derivatives]
    if not third:
        require_gradient(student, lift, task, params)
    verify_gradient(student, lift, telling, params, weights, checked_further=bool(third))
    if third:
        require_derivatives(student, lifted(lift, task.inputs), task, params, third[0])
        return lambda: True
    return cache(lambda: _has_derivatives(student, lifted(lift, task.inputs), task, params))


def left_out_of(objective: Objective, third_derivatives: bool) -> dict[str, str]:
    """The terms that cannot be computed, and why. One that does not suit the inputs is refused if it has weight."""
    reasons: dict[str, str] = {}
    if not third_derivatives:
        reasons = dict.fromkeys(objective.beyond_gradient, NO_DERIVATIVES)
    if objective.data is None:
        return reasons
    inputs, _ = objective.data.example
    for term in objective.terms:
        reason = term.refuses(inputs)
        if reason and term.name in objective.active:
            raise TypeError(
                f"data: inputs are {dtypes_of(inputs)}, but {objective.weight_name(term.name)} is not 0; {reason}"
            )
        reasons |= {term.name: reason} if reason else {}
    return reasons


def require_gradient(module: nn.Module, lift: Lift, task: Task, params: Params) -> None:
    """Raise ``TypeError`` unless ``torch.func`` can differentiate ``task``, as solvers do; it names the
    layer, or the loss. Arguments are those of `check_task`.
    """
    try:
        grad(task)(params)
    except RuntimeError as error:
        outputs = task.outputs(params).detach()
        try:
            grad(task.of_outputs)(outputs)
        except RuntimeError:
            head = "loss: torch.func cannot differentiate it"
        else:
            head = "student: torch.func cannot differentiate its forward pass"
            names = undifferentiable(module, lifted(lift, task.inputs.clone()))
            kinds = [f"{n or 'the module itself'} ({_kind(module, n)})" for n in names]
            head += f", in {', '.join(kinds)}" if kinds else ""
        raise TypeError(
            f"{head}; checkpointing, packed sequences, backward hooks of a module and NumPy are such "
            f"cases: {error}"
        ) from error


def _kind(module: nn.Module, name: str) -> str:
    return type(module.get_submodule(name)).__name__


def _check_loss(task: Task, params: Params, class_axis: int | None) -> None:
    """Check that the student runs on two examples, that targets have the shape that cross-entropy needs (if an axis is
    given), and that the loss has a derivative. With a loss without a derivative every start would count as
    stationary.
    """
    with torch.enable_grad():
        try:
            outputs = task.outputs(
                {name: p.detach().requires_grad_() for name, p in params.items()}
            )
        except RuntimeError as error:
            whole = not task.inputs.is_floating_point()
            raise ValueError(
                f"student: its forward pass fails on ψ of the data's inputs, {dtypes_of(task.inputs)} of "
                f"shape {shapes_of(task.inputs)}: {error}"
                + whole
                * " (whole numbers are handed on as they are; images must be floating)"
            ) from error
        if class_axis is not None:
            places = (*outputs.shape[:class_axis], *outputs.shape[class_axis + 1 :])
            if not isinstance(task.targets, Tensor) or task.targets.shape != places:
                raise ValueError(
                    f"data: {len(task)} targets have shape {shapes_of(task.targets)}, must have "
                    f"{places}: class indices for outputs of shape {tuple(outputs.shape)} (give "
                    "loss= for other targets)"
                )
        value = replace(task, loss=_with_shapes_in_errors(task.loss)).of_outputs(outputs)
    if not value.requires_grad:
        raise ValueError(
            "loss: has no derivative in the student's parameters; neither it nor the student's forward "
            "may detach or round what it computes, or run under torch.no_grad()"
        )


def _with_shapes_in_errors(loss: Loss) -> Loss:
    """The same loss. Its errors say with which shapes the loss was called."""

    def wrapped(outputs: Tensor, targets: Any) -> Tensor:
        try:
            return loss(outputs, targets)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(
                f"loss: fails on the student's outputs of shape {tuple(outputs.shape)} and targets of "
                f"shape {shapes_of(targets)}: {error} (restrict_classes=True hands it the outputs of "
                "the teacher's classes alone)"
            ) from error

    return wrapped


def _check_apart(task: Task, params: Params, name: str) -> None:
    """Check that the outputs and the mean loss of two examples stay the same when the examples go through the student
    one by one. If the outputs of an example depend on the others, the batch cannot be divided.
    """
    with torch.no_grad():
        together = task.outputs(params)
        try:
            parts = [task.part(i, i + 1).outputs(params) for i in range(len(task))]
            separate = torch.cat(parts)
        except (RuntimeError, ValueError):
            separate = torch.full_like(together, torch.nan)
    size = float(together.abs().max()) if together.numel() else 0.0
    atol = size * torch.finfo(separate.dtype).eps ** 0.5
    same = separate.shape == together.shape
    if not same or not torch.allclose(separate, together, rtol=0, atol=atol):
        raise ValueError(
            f"{name}: the outputs of two examples change when they go through the student one by one, "
            "so that a batch cannot be taken apart; is a BatchNorm without running statistics in it, "
            f"or a dropout that is always on? Give {name}=None, or change the student"
        )
    whole, again = task.of_outputs(together), task.of_outputs(together)
    if not torch.equal(whole, again):
        return  # a random loss
    losses = [task.part(i, i + 1).of_outputs(together[i : i + 1]) for i in range(len(task))]
    mean = torch.stack(losses).mean()
    if not torch.allclose(mean, whole, rtol=atol / (size or 1), equal_nan=True):
        raise ValueError(
            f"{name}: the mean loss of two examples is {float(whole):.6g} together and "
            f"{float(mean):.6g} one by one, so that a batch cannot be taken "
            f"apart; does the loss normalise over the batch? Give {name}=None, or change the loss"
        )


def _has_derivatives(module: nn.Module, inputs: Inputs, task: Task, params: Params) -> bool:
    """Whether a curvature without weight can be reported."""
    try:
        require_derivatives(module, inputs, task, params)
    except TypeError:
        task(params)  # raises an error of the forward pass itself, which is no lack of derivatives
        return False
    return True
