"""From the arguments of `pose` to the problem: the checks, the map, the start and the objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from phiopt._arguments import check_modules, check_options, check_precision, check_start
from phiopt._checks import Scalar, count, instance, known
from phiopt._inputs import Inputs, entries_of
from phiopt._modules import copied, copies, state_of, with_tensors
from phiopt._progress import phase
from phiopt._task_checks import check_task, left_out_of
from phiopt._transforms import has_tangent, plain, wrapped
from phiopt._traps import warn_of_traps
from phiopt._types import Function, Lift, Loss, Params
from phiopt.bilevel.adjoint import changed, given_tensors
from phiopt.data import Data, Source
from phiopt.distributed import check_replicas, data_parallel, failing_together, replicated
from phiopt.growth import GrowthMap, grow
from phiopt.growth.given import check_beside_map
from phiopt.objective import (
    Curvature,
    Frobenius,
    Lambdas,
    Neighbourhood,
    Objective,
    Stream,
    Term,
    Uniform,
    paper_terms,
    pure_model,
    student_loss,
)
from phiopt.objective.neighbourhood import at_delta
from phiopt.problem import Problem

REFERENCE_DRAWS = 8
"""Draws over which the terms' values at the start are averaged, for the relative scale. With a single draw and a
single probe L_4's value, and so the effect of λ4, would be off by more than half."""


def derived_map(
    teacher: nn.Module,
    student: nn.Module,
    lift: Lift | None,
    classes: Sequence[int] | Tensor | None,
    inputs: Inputs | None,
) -> GrowthMap:
    """Where the teacher sits in the student. The map holds a copy of ψ in evaluation mode."""
    still = copied(lift).eval() if isinstance(lift, nn.Module) else lift
    return GrowthMap.between(teacher, student, lift=still, classes=classes, inputs=inputs)


@dataclass(frozen=True)
class Posing:
    """The arguments of `pose`."""

    teacher: nn.Module
    student: nn.Module
    lambdas: Lambdas
    source: Source | None
    map: GrowthMap | None
    lift: Lift | None
    classes: Sequence[int] | Tensor | None
    loss: Loss | None
    neighbourhood: Neighbourhood | None
    curvature: Curvature | None
    extra: Sequence[tuple[Scalar, Term]]
    scale: str
    start: str | Params | None
    restrict_classes: bool
    micro_batch: int | None
    group: ProcessGroup | None
    batch_size: int | None
    seed: int

    @property
    def plug_ins(self) -> dict[str, tuple[object, type]]:
        """Pluggable objects by name, each with its protocol."""
        return {
            "lift": (self.lift, Function),
            "loss": (self.loss, Function),
            "neighbourhood": (self.neighbourhood, Neighbourhood),
            "curvature": (self.curvature, Curvature),
        }

    def check(self) -> torch.device:
        """Refuse arguments before any work. Returns the device of the models."""
        flags = {"restrict_classes": self.restrict_classes}
        check_options(
            self.lambdas,
            self.source,
            self.scale,
            self.seed,
            self.micro_batch,
            self.group,
            self.plug_ins,
            flags,
        )
        if self.batch_size is not None:
            count("batch_size", self.batch_size)
        if self.map is not None:
            instance("map", self.map, GrowthMap, "a GrowthMap")
        for _, term in self.extra:
            if self.source is None and term.over != "parameters":
                raise ValueError(f"extra: {term.name} needs data, but data is None")
        return check_modules(self.teacher, self.student).device

    def off_the_graph(self) -> Posing:
        """The same with plain numbers for the tensors of λ, δ and the start."""
        given = given_tensors(self.lambdas, self.neighbourhood, self.start)
        numbers = {name: plain(name, value) for name, value in given.items()}
        return replace(
            self,
            lambdas=changed(self.lambdas, "lambdas.", numbers),
            extra=[_off_the_graph(weight, term) for weight, term in self.extra],
            neighbourhood=self.neighbourhood_at(numbers.get("neighbourhood.delta")),
            start=changed(self.start, "start.", numbers),
            seed=int(self.seed),
        )

    def neighbourhood_at(self, delta: Tensor | None) -> Neighbourhood | None:
        """The neighbourhood at this δ; None: as it is."""
        if self.neighbourhood is None or delta is None:
            return self.neighbourhood
        return at_delta(self.neighbourhood, delta)

    def problem(self, device: torch.device) -> Problem:
        """Do all work. Where processes solve together, an error in one is an error in all."""
        phase("checking")
        if self.group is not None:
            settings: dict[str, object] = {n: value for n, (value, _) in self.plug_ins.items()}
            settings["extra"] = [(known(weight), term) for weight, term in self.extra]
            settings["lambdas"] = [float(value) for _, value in self.lambdas.items()]
            settings["one of the settings"] = (self.scale, self.restrict_classes, self.micro_batch)
            check_replicas(self.group, settings, device)
        with failing_together(self.group, device):
            check_start(self.start, self.student)
            dtype = next(self.student.parameters()).dtype
            parts = {"curvature": self.curvature, "neighbourhood": self.neighbourhood}
            check_precision(dtype, parts | {f"extra.{t.name}": t for _, t in self.extra})
            data = self.data(device, dtype)
            inputs = None if data is None else data.example[0]
            phase("mapping")
            growth = self.growth(inputs)
            relabelled = data is not None and self.relabelled(growth, data)
            w0 = self.module(growth, inputs)
            params = {n: p.detach().clone() for n, p in w0.named_parameters() if p.requires_grad}
            objective = self.objective(w0, growth, data, device)
            phase("checking")
            third_derivatives = self.third_derivatives(w0, growth, objective, params)
            if data is not None and relabelled and self.loss is not None:
                outputs = objective.model({}, data.example[0][:2])
                data.expect_classes(len(growth.classes), outputs.shape[growth.class_axis])
            # An extra term may get its weight in a solve. So what it needs is examined now.
            needed = any(term.third_derivatives for _, term in self.extra)
            self.warn_of_traps(growth, objective)
            left_out = left_out_of(objective, not needed or third_derivatives())
            objective = objective.without_terms(left_out)
            if self.group is not None:
                objective = _shared(objective, params, self.group, self.seed)
        if self.scale == "relative":
            phase("scaling")
            objective = _relative(objective, params, self.batch_size, self.seed)
        about = (growth, self.scale, self.seed, self.source, self.group)
        return Problem(objective, params, w0, *about, left_out, third_derivatives)

    def warn_of_traps(self, growth: GrowthMap, objective: Objective) -> None:
        """Say aloud what is allowed and probably not meant."""
        around = Uniform(0.1) if self.neighbourhood is None else self.neighbourhood
        warn_of_traps(self.teacher, self.loss, around, objective, growth.class_axis)

    def data(self, device: torch.device, dtype: torch.dtype) -> Data | None:
        """D1, open for reading."""
        if self.source is None:
            return None
        return Data(self.source, device, dtype, default_loss=self.loss is None)

    def third_derivatives(
        self, w0: nn.Module, growth: GrowthMap, objective: Objective, params: Params
    ) -> Callable[[], bool]:
        """A function that says whether the student and the loss have them, as far as is known. The checks need a term
        over the data.
        """
        counted = {*objective.active, *objective.extra}  # a solve may give an extra term its weight
        on_data = [t for t in objective.terms if t.over != "parameters" and t.name in counted]
        if objective.data is None or not on_data:
            return lambda: True
        class_axis = growth.class_axis if self.loss is None else None
        apart = {"micro_batch": self.micro_batch, "process_group": self.group}
        return check_task(w0, growth.lift, objective, params, class_axis, apart)

    def growth(self, inputs: Inputs | None) -> GrowthMap:
        """The map that is given, checked, or a new one."""
        if self.map is not None:
            self.map.check_models(self.teacher, self.student)
            check_beside_map(self.lift, self.classes, (self.map.lift, self.map.classes))
            return self.map
        return derived_map(self.teacher, self.student, self.lift, self.classes, inputs)

    def relabelled(self, growth: GrowthMap, data: Data) -> bool:
        """Whether the student's loss gets other targets than those of the data. They are class indices then. Targets
        that do not fit the loss are refused.
        """
        in_order = growth.classes.tolist() == list(range(len(growth.classes)))
        targets = data.example[1]
        indices = isinstance(targets, Tensor) and not targets.is_floating_point()
        relabelled = indices and not (in_order or self.restrict_classes)
        as_given = self.loss is not None and not self.restrict_classes and not relabelled
        if growth.class_axis <= 0 and not as_given:
            raise ValueError(
                "student: its outputs have one axis or none, must be (batch, classes, ...) unless "
                "loss= is given, with neither classes= nor restrict_classes=True"
            )
        if self.loss is None:
            data.expect_classes(len(growth.classes))
        return relabelled

    def module(self, growth: GrowthMap, inputs: Inputs | None) -> nn.Module:
        """A new module at w0, in the student's modes. Whether a start keeps the function is verified, if it should."""
        if isinstance(self.start, dict):
            return with_tensors(self.student, self.start)
        fill = "default" if self.start is None else self.start
        options: dict[str, Any] = {"map": growth, "inputs": inputs, "seed": self.seed}
        return grow(self.teacher, self.student, fill=fill, **options)

    def objective(
        self, w0: nn.Module, growth: GrowthMap, data: Data | None, device: torch.device
    ) -> Objective:
        """L in the paper's scale."""
        classes = growth.classes.to(device)
        lift = self.lift if isinstance(self.lift, nn.Module) else None
        return Objective(
            model=pure_model(w0, growth.lift),
            terms=[
                *paper_terms(
                    copies(state_of(self.teacher)),
                    growth.extract,
                    Uniform(0.1) if self.neighbourhood is None else self.neighbourhood,
                    Frobenius() if self.curvature is None else self.curvature,
                ),
                *(term for _, term in self.extra),
            ],
            extra={term.name: weight for weight, term in self.extra},
            loss=student_loss(self.loss, classes, growth.class_axis, self.restrict_classes),
            lambdas=self.lambdas,
            data=data,
            micro_batch=self.micro_batch,
            psi={} if lift is None else copies(dict(lift.named_parameters())),
        )


def _off_the_graph(weight: Scalar, term: Term) -> tuple[Scalar, Term]:
    """The same with a plain number as weight, and off the transforms of `torch.func`."""
    inside = {n: v for n, v in term.tensors().items() if wrapped(v) or has_tangent(v)}
    number = plain(f"extra.{term.name}", weight) if isinstance(weight, Tensor) else weight
    return number, term.with_tensors({name: plain(name, v) for name, v in inside.items()})


_OWNERS = {"teacher": "the teacher's", "psi": "the lift's"}


def _shared(objective: Objective, start: Params, group: ProcessGroup, seed: int) -> Objective:
    """The objective with batches that are shared out among the processes. All must have the same problem."""
    device = next(iter(start.values())).device
    values: dict[str, object] = {f"the start's {name}": value for name, value in start.items()}
    for name, value in objective.tensors().items():
        part, _, rest = name.partition(".")
        values[f"{_OWNERS.get(part, part)} {rest}"] = value
    data = objective.data
    if data is not None:
        for which, batch in zip(("inputs", "targets"), data.example, strict=True):
            values |= {f"data's {which} {key}".strip(): x for key, x in entries_of(batch).items()}
        values["data's length"] = data.length
    values["the seed"] = seed
    check_replicas(group, values, device)
    return replace(
        objective,
        model=data_parallel(objective.model, group),
        data=data and replicated(data, group, device),
    )


def _relative(objective: Objective, start: Params, batch_size: int | None, seed: int) -> Objective:
    """The objective in dimensionless terms; see `Objective.relative`."""
    draws = range(REFERENCE_DRAWS if objective.data is not None else 0)
    with torch.no_grad():
        samples = objective.samples(start, batch_size, seed, Stream.REFERENCE, draws)
        return objective.relative(start, samples)
