"""φ's problem, put together from what a user gives: the objective, the start and the student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from phiopt._arguments import check_modules, check_precision, check_start
from phiopt._modules import copied, with_tensors
from phiopt._types import Lift, Loss, Params
from phiopt.data import Data, Source
from phiopt.derivatives import require_derivatives
from phiopt.distributed import check_replicas, data_parallel, replicated
from phiopt.growth import GrowthMap, grow
from phiopt.objective import (
    Curvature,
    Frobenius,
    Lambdas,
    Neighbourhood,
    Objective,
    Stream,
    Task,
    Uniform,
    pure_model,
    student_loss,
)
from phiopt.objective.examples import telling_examples
from phiopt.objective.verify import require_gradient, verify_gradient
from phiopt.solve import Posed

REFERENCE_DRAWS = 8
"""Draws that L_4's value at the start, its unit on the relative scale, is the mean of: one alone,
with one probe, is off by more than half, and λ4's effect with it."""


class Problem(NamedTuple):
    """What a solver needs: L, w0, and a new module that holds w0."""

    objective: Objective
    start: Params
    module: nn.Module

    def relative(self, batch_size: int | None, seed: int) -> Problem:
        """In dimensionless terms; see `Objective.relative`."""
        objective, start, _ = self
        draws = range(REFERENCE_DRAWS if objective.data is not None else 0)
        with torch.no_grad():
            samples = [
                objective.sample(start, batch_size, seed, Stream.REFERENCE, i) for i in draws
            ]
            return self._replace(objective=objective.relative(start, samples))

    def posed(self, seed: int) -> Posed:
        """For `solve_many`."""
        held = _state(self.module, detached=True)
        constants = {name: value for name, value in held.items() if name not in self.start}
        return Posed(self.objective, self.start, seed, constants)


def problem(
    teacher: nn.Module,
    student: nn.Module,
    lambdas: Lambdas,
    data: Source | None,
    *,
    lift: Lift | None = None,
    classes: Sequence[int] | Tensor | None = None,
    loss: Loss | None = None,
    neighbourhood: Neighbourhood | None = None,
    curvature: Curvature | None = None,
    start: str | Params | None = None,
    restrict_classes: bool = False,
    differentiable: bool = False,
    micro_batch: int | None = None,
    process_group: ProcessGroup | None = None,
    seed: int = 0,
) -> Problem:
    """The problem that `initialize` solves, in the paper's scale; arguments are explained there.

    ``differentiable`` keeps the teacher's parameters and ψ's attached to the caller's.
    """
    like = check_modules(teacher, student)
    check_start(start, student)
    check_precision(like.dtype, neighbourhood, curvature)
    examples = None if data is None else Data(data, like.device, like.dtype)
    inputs = None if examples is None else examples.example[0]
    still = copied(lift).eval() if isinstance(lift, nn.Module) else lift
    growth = GrowthMap.between(teacher, student, lift=still, classes=classes, inputs=inputs)
    relabelled = False
    if examples is not None:
        relabelled = _relabelled(growth, examples, restrict_classes)
        if growth.class_axis <= 0 and (loss is None or restrict_classes or relabelled):
            raise ValueError(
                "student: its outputs have one axis or none, must be (batch, classes, ...) unless "
                "loss= is given, with neither classes= nor restrict_classes=True"
            )
        if loss is None:
            examples.expect_classes(len(growth.classes))
    started = _start_module(teacher, student, growth, start, inputs, seed)
    params = {n: p.detach().clone() for n, p in started.named_parameters() if p.requires_grad}
    model = pure_model(started, growth.lift)
    example_loss = student_loss(
        loss, growth.classes.to(like.device), growth.class_axis, restrict_classes
    )
    reported = True
    if examples is not None and lambdas.active != ["proximity"]:
        task = Task(model, example_loss, *(part[:2] for part in examples.example))
        x, y = examples.spread()
        places = telling_examples(x, y).to(x.device)
        more = Task(model, example_loss, x[places], y[places])
        _check_loss(task, params, growth.class_axis if loss is None else None)
        for name, value in (("micro_batch", micro_batch), ("process_group", process_group)):
            if value is not None:
                _check_apart(task, params, name)
        curved = "curvature" in lambdas.active
        if not curved:
            require_gradient(started, growth.lift, task, params)
        verify_gradient(started, growth.lift, more, params, lambdas.active)
        if curved:
            require_derivatives(started, growth.lift(task.inputs), task, params)
        else:
            reported = _has_derivatives(started, growth.lift(task.inputs), task, params)
    if examples is not None and relabelled and loss is not None:
        outputs = model({}, examples.example[0][:2])
        examples.expect_classes(len(growth.classes), outputs.shape[growth.class_axis])
    if process_group is not None:
        same = _to_agree_on(params, teacher, lift, examples, seed)
        check_replicas(process_group, same, like.device)
        model = data_parallel(model, process_group)
        examples = examples and replicated(examples, process_group, like.device)
    objective = Objective(
        model=model,
        teacher=_state(teacher, detached=not differentiable),
        extract=growth.extract,
        loss=example_loss,
        lambdas=lambdas,
        data=examples,
        neighbourhood=_noise(neighbourhood, lambdas, examples),
        curvature=(Frobenius() if curvature is None else curvature) if reported else None,
        micro_batch=micro_batch,
        psi=_parameters(lift) if differentiable else {},
    )
    return Problem(objective, params, started)


def _to_agree_on(
    params: Params, teacher: nn.Module, lift: Lift | None, data: Data | None, seed: int
) -> dict[str, Tensor]:
    """What must be the same in all processes, by a name to complain of."""
    held = {f"the start's {name}": value for name, value in params.items()}
    held |= {f"the teacher's {name}": value for name, value in _state(teacher, True).items()}
    held |= {f"the lift's {name}": value for name, value in _parameters(lift).items()}
    if data is not None:
        held |= dict(zip(("data's inputs", "data's targets"), data.example, strict=True))
        held["data's length"] = torch.tensor(float(data.length or 0), device="cpu")
    held["the seed"] = torch.tensor(float(seed), device="cpu")
    device = next(iter(params.values())).device
    return {name: value.to(device) for name, value in held.items()}


def _relabelled(growth: GrowthMap, data: Data, restrict_classes: bool) -> bool:
    """Whether the student's loss sees other targets than the data's: they are class indices then."""
    first = growth.classes.tolist() == list(range(len(growth.classes)))
    return not (first or restrict_classes or data.example[1].is_floating_point())


def _check_loss(task: Task, params: Params, class_axis: int | None) -> None:
    """On two examples the student runs, targets have the shape that cross-entropy (an axis is
    given) asks for, and there is a derivative: a loss without one would leave every start as it is,
    and call it stationary.
    """
    with torch.enable_grad():
        try:
            outputs = task.outputs(
                {name: p.detach().requires_grad_() for name, p in params.items()}
            )
        except RuntimeError as error:
            whole = not task.inputs.is_floating_point()
            raise ValueError(
                f"student: its forward pass fails on ψ of the data's inputs, {task.inputs.dtype} of "
                f"shape {tuple(task.inputs.shape)}: {error}"
                + whole
                * " (whole numbers are handed on as they are; images must be floating)"
            ) from error
        if class_axis is not None:
            places = (*outputs.shape[:class_axis], *outputs.shape[class_axis + 1 :])
            if task.targets.shape != places:
                raise ValueError(
                    f"data: {len(task)} targets have shape {tuple(task.targets.shape)}, must have "
                    f"{places}: class indices for outputs of shape {tuple(outputs.shape)} (give "
                    "loss= for other targets)"
                )
        value = replace(task, loss=_told(task.loss)).of_outputs(outputs)
    if not value.requires_grad:
        raise ValueError(
            "loss: has no derivative in the student's parameters; neither it nor the student's forward "
            "may detach or round what it computes, or run under torch.no_grad()"
        )


def _told(loss: Loss) -> Loss:
    """The same loss, where an error says which shapes it was called with."""

    def told(outputs: Tensor, targets: Tensor) -> Tensor:
        try:
            return loss(outputs, targets)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(
                f"loss: fails on the student's outputs of shape {tuple(outputs.shape)} and targets of "
                f"shape {tuple(targets.shape)}: {error} (restrict_classes=True hands it the outputs of "
                "the teacher's classes alone)"
            ) from error

    return told


def _check_apart(task: Task, params: Params, name: str) -> None:
    """Examples that see each other, in the student or in the loss, would be seen otherwise where a
    batch is taken apart.
    """
    with torch.no_grad():
        together = task.outputs(params)
        try:
            parts = [task.part(i, i + 1).outputs(params) for i in range(len(task))]
            alone = torch.cat(parts)
        except (RuntimeError, ValueError):
            alone = torch.full_like(together, torch.nan)
    size = float(together.abs().max()) if together.numel() else 0.0
    atol = size * torch.finfo(alone.dtype).eps ** 0.5
    if alone.shape != together.shape or not torch.allclose(alone, together, rtol=0, atol=atol):
        raise ValueError(
            f"{name}: the outputs of two examples change when they go through the student one by one, "
            "so that a batch cannot be taken apart; is a BatchNorm without running statistics in it, "
            f"or a dropout that is always on? Give {name}=None, or change the student"
        )
    whole, again = task.of_outputs(together), task.of_outputs(together)
    if not torch.equal(whole, again):
        return  # a random loss
    losses = [task.part(i, i + 1).of_outputs(together[i : i + 1]) for i in range(len(task))]
    if not torch.allclose(
        torch.stack(losses).mean(), whole, rtol=atol / (size or 1), equal_nan=True
    ):
        raise ValueError(
            f"{name}: the mean loss of two examples is {float(whole):.6g} together and "
            f"{float(torch.stack(losses).mean()):.6g} one by one, so that a batch cannot be taken "
            f"apart; does the loss normalise over the batch? Give {name}=None, or change the loss"
        )


def _has_derivatives(module: nn.Module, inputs: Tensor, task: Task, params: Params) -> bool:
    """Whether a curvature without weight can be reported."""
    try:
        require_derivatives(module, inputs, task, params)
    except TypeError:
        return False
    return True


def _noise(
    neighbourhood: Neighbourhood | None, lambdas: Lambdas, data: Data | None
) -> Neighbourhood | None:
    """U_δ, or None where inputs have no neighbours: tokens."""
    if data is None or data.example[0].is_floating_point():
        return Uniform(0.1) if neighbourhood is None else neighbourhood
    if "noise" in lambdas.active:
        raise TypeError(
            f"data: inputs are {data.example[0].dtype}, but lambdas.noise is not 0; "
            "neighbours x' need floating inputs"
        )
    return None


def _start_module(
    teacher: nn.Module,
    student: nn.Module,
    growth: GrowthMap,
    start: str | Params | None,
    inputs: Tensor | None,
    seed: int,
) -> nn.Module:
    """A new module at w0, in the student's modes; a start that is to keep the function is verified."""
    if start is None or isinstance(start, str):
        fill = "default" if start is None else start
        return grow(teacher, student, fill=fill, map=growth, inputs=inputs, seed=seed)
    return with_tensors(student, start)


def _parameters(lift: Lift | None) -> Params:
    """ψ's own, if it is a module, as copies."""
    held = lift.named_parameters() if isinstance(lift, nn.Module) else ()
    return {name: value.clone() for name, value in held}


def _state(module: nn.Module, detached: bool) -> Params:
    """Parameters and buffers by name, as copies."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {n: value.detach().clone() if detached else value.clone() for n, value in state.items()}
