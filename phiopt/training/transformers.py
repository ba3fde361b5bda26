"""Growth in the midst of a training by transformers' Trainer."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback

from phiopt.training.growing import Schedule


class GrowCallback(TrainerCallback):
    """Let the Trainer's model grow after some steps. Trainer, optimiser, scheduler and model stay the same objects.

    The optimiser's state is carried into the grown model. Learning rates go on by the scheduler's plan; with ``warmup``
    they rise to it from 0 once more. Checkpoints from step ``at`` on hold the larger model: to go on from such a
    checkpoint, give the Trainer a model of the student's size and the same callback, which then does nothing.

    Args:
        student: The larger model, of the class of the Trainer's model.
        at: Steps of the optimiser before growth; at least 1.
        options: ``fill``, ``map``, ``inputs``, ``warmup`` and ``seed`` of `grow_in_place`.

    Attributes:
        map: The map of the growth; None before it.

    A model that is wrapped (``DataParallel``, ``torch.compile``, FSDP, DeepSpeed) cannot grow in place, and is refused.

    Raises:
        TypeError, ValueError: An argument breaks its rule, here or, of ``options``, at growth.
    """

    def __init__(self, student: nn.Module, at: int, **options: Any) -> None:
        self.schedule = Schedule(student, at, **options)

    @property
    def map(self) -> Any:
        return self.schedule.map

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.schedule.begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.schedule.due(state.global_step):
            self.schedule.grow(given["model"], given["optimizer"])
