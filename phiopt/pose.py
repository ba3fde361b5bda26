"""φ's problem, posed: arguments checked, the map derived and the start made, once for many solves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from phiopt._arguments import (
    check_modules,
    check_options,
    check_precision,
    check_start,
    without_data,
)
from phiopt._modules import alone, copied, copies, state_of, with_tensors
from phiopt._randomness import preserved_randomness
from phiopt._task_checks import check_task
from phiopt._transforms import outside_transforms, plain
from phiopt._types import Lift, Loss, Params
from phiopt.bilevel.adjoint import changed, given_tensors
from phiopt.data import Data, Source
from phiopt.distributed import check_replicas, data_parallel, failing_together, replicated, together
from phiopt.growth import GrowthMap, grow
from phiopt.growth.given import check_beside_map
from phiopt.objective import (
    Curvature,
    Frobenius,
    Lambdas,
    Neighbourhood,
    Objective,
    Stream,
    Uniform,
    pure_model,
    student_loss,
)
from phiopt.problem import Problem

REFERENCE_DRAWS = 8
"""Draws that L_4's value at the start, its unit on the relative scale, is the mean of. One draw
alone, with one probe, is off by more than half, and λ4's effect with it."""


@alone()
@together
def pose(
    teacher: nn.Module,
    student: nn.Module,
    lambdas: Lambdas | Tensor | Iterable[float],
    data: Source | None = None,
    *,
    map: GrowthMap | None = None,
    lift: Lift | None = None,
    classes: Sequence[int] | Tensor | None = None,
    loss: Loss | None = None,
    neighbourhood: Neighbourhood | None = None,
    curvature: Curvature | None = None,
    scale: Literal["relative", "paper"] = "relative",
    start: str | Params | None = None,
    restrict_classes: bool = False,
    micro_batch: int | None = None,
    process_group: ProcessGroup | None = None,
    batch_size: int | None = 128,
    seed: int = 0,
) -> Problem:
    """Pose φ's problem, to be solved as often as wanted: at other λ and δ, from other starts, with other
    seeds, solvers and adjoints.

    All arguments but ``batch_size`` are those of `initialize`, which poses a problem and solves the problem once.
    The map is derived, the start made and the derivatives checked here, once.

    Args:
        teacher: The trained model.
        student: The larger model.
        lambdas: λ of a solve that is given no other. A term whose weight is the number 0 here gets no
            weight in a solve: the checks that the term needs were not made.
        data: D1. Each solve reads a loader from its beginning.
        map: Where the teacher sits in the student, if that is known. None: it is derived.
        lift: ψ.
        classes: Student output index of each of the teacher's classes.
        loss: Per-example losses.
        neighbourhood: U_δ.
        curvature: The estimator of the curvature term.
        scale: "relative" or "paper". The divisors of the relative scale are taken at the start that
            is given here, and stay the same in all solves.
        start: A fill's name, or the student's parameters by name.
        restrict_classes: Whether the loss sees only the outputs of the teacher's classes.
        micro_batch: Examples that go through the student at once.
        process_group: The processes that solve the problem together.
        batch_size: Examples to each of the draws that the divisors are means over; None: all of D1.
            Default 128, as in `TorchOpt`.
        seed: Of every random draw, of the solves too where they are given no other.

    Raises:
        ValueError, TypeError: An argument breaks its rule; see `initialize`.

    Examples:
        >>> teacher = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> student = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 5))
        >>> x, y = torch.randn(64, 4), torch.randint(3, (64,))
        >>> problem = pose(teacher, student, (0.4, 0.2, 0.2, 0.2), (x, y))
        >>> first, second = problem.solve(), problem.solve((0.2, 0.4, 0.2, 0.2), delta=0.2)
        >>> first.map is second.map
        True
    """
    weights = Lambdas.of(lambdas)
    if data is None:
        weights = without_data(weights)
    parts = {
        "lift": (lift, "__call__"),
        "loss": (loss, "__call__"),
        "neighbourhood": (neighbourhood, "perturb"),
        "curvature": (curvature, "products"),
    }
    flags = {"restrict_classes": restrict_classes}
    check_options(weights, data, scale, seed, micro_batch, process_group, parts, flags)
    like = check_modules(teacher, student)
    given = given_tensors(weights, neighbourhood, start)
    numbers = {name: plain(name, value) for name, value in given.items()}
    weights = changed(weights, "lambdas.", numbers)
    neighbourhood = changed(neighbourhood, "neighbourhood.", numbers)
    start, seed = changed(start, "start.", numbers), int(seed)
    with (
        outside_transforms(),
        torch.inference_mode(False),
        torch.autocast(like.device.type, enabled=False),  # it would round the derivatives
        preserved_randomness(data, like.device, seed),
    ):
        if process_group is not None:
            settings: dict[str, object] = {name: value for name, (value, _) in parts.items()}
            settings["lambdas"] = [float(value) for _, value in weights.items()]
            settings["one of the settings"] = (scale, restrict_classes, micro_batch)
            check_replicas(process_group, settings, like.device)
        with failing_together(process_group, like.device):
            check_start(start, student)
            check_precision(like.dtype, neighbourhood, curvature)
            examples = None if data is None else Data(data, like.device, like.dtype)
            inputs = None if examples is None else examples.example[0]
            growth = _map(map, teacher, student, lift, classes, inputs)
            relabelled = examples is not None and _check_targets(
                growth, examples, loss, restrict_classes
            )
            w0 = _start(teacher, student, growth, start, inputs, seed)
            params = {n: p.detach().clone() for n, p in w0.named_parameters() if p.requires_grad}
            objective = Objective(
                model=pure_model(w0, growth.lift),
                teacher=copies(state_of(teacher)),
                extract=growth.extract,
                loss=student_loss(
                    loss, growth.classes.to(like.device), growth.class_axis, restrict_classes
                ),
                lambdas=weights,
                data=examples,
                curvature=Frobenius() if curvature is None else curvature,
                micro_batch=micro_batch,
                psi=copies(dict(lift.named_parameters())) if isinstance(lift, nn.Module) else {},
            )
            if examples is not None and weights.active != ["proximity"]:
                class_axis = growth.class_axis if loss is None else None
                apart = {"micro_batch": micro_batch, "process_group": process_group}
                if not check_task(w0, growth.lift, objective, params, class_axis, apart):
                    objective = replace(objective, curvature=None)
            if examples is not None and relabelled and loss is not None:
                outputs = objective.model({}, examples.example[0][:2])
                examples.expect_classes(len(growth.classes), outputs.shape[growth.class_axis])
            around = _noise(neighbourhood, weights, examples)
            objective = replace(objective, neighbourhood=around)
            if process_group is not None:
                objective = _shared(objective, params, process_group, seed)
        if scale == "relative":
            objective = _relative(objective, params, batch_size, seed)
    return Problem(objective, params, w0, growth, scale, seed, data, process_group)


def _map(
    map: GrowthMap | None,
    teacher: nn.Module,
    student: nn.Module,
    lift: Lift | None,
    classes: Sequence[int] | Tensor | None,
    inputs: Tensor | None,
) -> GrowthMap:
    """The map that is given, checked, or a new one, which holds a copy of ψ in evaluation mode."""
    if map is None:
        still = copied(lift).eval() if isinstance(lift, nn.Module) else lift
        return GrowthMap.between(teacher, student, lift=still, classes=classes, inputs=inputs)
    map.check_models(teacher, student)
    check_beside_map(lift, classes, (map.lift, map.classes))
    return map


def _check_targets(
    growth: GrowthMap, data: Data, loss: Loss | None, restrict_classes: bool
) -> bool:
    """The targets fit the loss. Returns whether the student's loss sees other targets than the data's:
    the targets are class indices then.
    """
    in_order = growth.classes.tolist() == list(range(len(growth.classes)))
    floating = data.example[1].is_floating_point()
    relabelled = not (in_order or restrict_classes or floating)
    if growth.class_axis <= 0 and (loss is None or restrict_classes or relabelled):
        raise ValueError(
            "student: its outputs have one axis or none, must be (batch, classes, ...) unless "
            "loss= is given, with neither classes= nor restrict_classes=True"
        )
    if loss is None:
        data.expect_classes(len(growth.classes))
    return relabelled


def _start(
    teacher: nn.Module,
    student: nn.Module,
    growth: GrowthMap,
    start: str | Params | None,
    inputs: Tensor | None,
    seed: int,
) -> nn.Module:
    """A new module at w0, in the student's modes. A start that is to keep the function is verified."""
    if start is None or isinstance(start, str):
        fill = "default" if start is None else start
        return grow(teacher, student, fill=fill, map=growth, inputs=inputs, seed=seed)
    return with_tensors(student, start)


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


def _shared(objective: Objective, start: Params, group: ProcessGroup, seed: int) -> Objective:
    """The objective, whose batches are shared out among processes that all have the same problem."""
    device = next(iter(start.values())).device
    values: dict[str, object] = {f"the start's {name}": value for name, value in start.items()}
    values |= {f"the teacher's {name}": value for name, value in objective.teacher.items()}
    values |= {f"the lift's {name}": value for name, value in objective.psi.items()}
    data = objective.data
    if data is not None:
        values |= dict(zip(("data's inputs", "data's targets"), data.example, strict=True))
        values["data's length"] = data.length
    values["the seed"] = seed
    check_replicas(group, values, device)
    return replace(
        objective,
        model=data_parallel(objective.model, group),
        data=data and replicated(data, group, device),
    )


def _relative(objective: Objective, start: Params, batch_size: int | None, seed: int) -> Objective:
    """In dimensionless terms; see `Objective.relative`."""
    draws = range(REFERENCE_DRAWS if objective.data is not None else 0)
    with torch.no_grad():
        samples = [objective.sample(start, batch_size, seed, Stream.REFERENCE, i) for i in draws]
        return objective.relative(start, samples)
