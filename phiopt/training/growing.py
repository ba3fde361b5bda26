"""Growth in the midst of a training: the model and its optimiser stay the same objects."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from phiopt._checks import count, instance
from phiopt._modules import copied
from phiopt._order import in_order
from phiopt.growth import GrowthMap, carry_optimizer
from phiopt.growth.carry import Wrapper
from phiopt.growth.grow import grow

_TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


@in_order
def grow_in_place(
    model: nn.Module,
    student: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    fill: str = "zero-out",
    map: GrowthMap | None = None,
    inputs: Any = None,
    warmup: int = 0,
    seed: int = 0,
) -> GrowthMap:
    """Grow a model that is being trained. The model itself becomes the larger one, so that a training loop, trainer or
    scheduler that holds the model and the optimiser goes on with them.

    Args:
        model: The model in training. It gets the tensors, modules and attributes of the grown student. Its training
            mode, its hooks, and attributes that the student has not, stay.
        student: The larger model, of the same class; never modified.
        optimizer: The optimiser of the model's parameters. It gets the state and the groups of
            [`carry_optimizer`][phiopt.carry_optimizer]. None: none is changed.
        fill: As in [`grow`][phiopt.growth.grow]; default ``"zero-out"``, which keeps the function.
        map: The map from ``model`` to ``student``, if it is known. None: it is derived.
        inputs: A batch of inputs, as in `GrowthMap.between`; None: a shape is found.
        warmup: Steps over which the learning rates rise linearly from 0 to what they would be; default 0. Adam's first
            steps in new coordinates are long: some tens of steps are of use.
        seed: Seed of the fill.

    Returns:
        The map. It is of the model as it was and as it is.

    Raises:
        TypeError: An argument is of another kind, or the two models are of different classes.
        ValueError: The models do not match, as in `grow`.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> larger = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> growth = grow_in_place(model, larger, optimizer, warmup=10)
        >>> model[0].weight.shape, optimizer.param_groups[0]["params"][0] is model[0].weight
        (torch.Size([16, 4]), True)
    """
    for name, module in (("model", model), ("student", student)):
        instance(name, module, nn.Module, "an nn.Module")
    if type(model) is not type(student):
        raise TypeError(
            f"student: is a {type(student).__name__}, must be of the model's class, {type(model).__name__}"
        )
    if optimizer is not None:
        instance("optimizer", optimizer, Optimizer, "a torch.optim.Optimizer")
    warmup = count("warmup", warmup, least=0)
    like = next(model.parameters(), torch.empty(0))
    large = copied(student, "student").to(like.device, like.dtype)
    growth = map or GrowthMap.between(model, large, inputs=inputs)
    grown = grow(model, large, fill, map=growth, inputs=inputs, seed=seed)
    _take_flags(grown, model, growth)
    carried = None
    if optimizer is not None:
        carried = carry_optimizer(optimizer, growth, model, grown)
    _become(model, grown)
    if optimizer is not None and carried is not None:
        inner = innermost(optimizer)
        inner.param_groups[:] = carried.param_groups
        inner.state.clear()
        inner.state.update(carried.state)
        if warmup:
            warm_up(inner, warmup)
    return growth


def innermost(optimizer: Optimizer) -> Optimizer:
    """The optimiser itself, of one that wraps it."""
    while isinstance(optimizer, Wrapper) and isinstance(optimizer.optimizer, Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def warm_up(optimizer: Optimizer, steps: int) -> None:
    """Let the rates of the next so many steps rise linearly to what they are without this.

    The rates are lowered for the time of a step alone, so that a scheduler never sees it.
    """
    rates: list[Any] = []
    done = 0

    def before(*_: Any) -> None:
        factor = (done + 1) / (steps + 1)
        rates[:] = [group["lr"] for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor

    def after(*_: Any) -> None:
        nonlocal done
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        done += 1
        if done == steps:
            for handle in handles:
                handle.remove()

    handles = [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
    ]


def _take_flags(grown: nn.Module, model: nn.Module, growth: GrowthMap) -> None:
    """Give the grown model the training modes of the model's modules, and what of it is frozen."""
    modes = {name: part.training for name, part in model.named_modules()}
    for name, part in grown.named_modules():
        part.training = modes.get(name, model.training)
    there = dict(grown.named_parameters())
    for name, parameter in model.named_parameters():
        place = growth.placements.get(name)
        if place is not None and place.student in there:
            there[place.student].requires_grad_(parameter.requires_grad)


def _become(model: nn.Module, grown: nn.Module) -> None:
    """Give a module the tensors, parts and attributes of another of its class."""
    kept = set(vars(nn.Module())) - {*_TABLES}
    vars(model).update({name: x for name, x in vars(grown).items() if name not in kept})


class Schedule:
    """When a trainer's model grows: once, after so many steps of its optimiser.

    Args:
        student: The larger model, of the class of the model in training.
        at: Steps of the optimiser before growth.
        options: As in `grow_in_place`.

    Attributes:
        map: The map, once the model has grown; else None.
    """

    def __init__(self, student: nn.Module, at: int, **options: Any) -> None:
        instance("student", student, nn.Module, "an nn.Module")
        self.student, self.at, self.options = student, count("at", at), options
        self.map: GrowthMap | None = None
        self.started = -inf

    def begin(self, step: int) -> None:
        """A training begins, or goes on, at this step."""
        self.started = step

    def due(self, step: int) -> bool:
        """Whether the model is to grow now. A training that goes on after ``at`` has a model that has grown."""
        return self.map is None and self.started < self.at <= step

    def grow(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.map = grow_in_place(model, self.student, optimizer, **self.options)
