"""Growth in the midst of a training by Lightning's Trainer."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from phiopt._checks import instance
from phiopt.training.growing import Schedule


class GrowCallback(Callback):
    """Let a part of a LightningModule grow after some steps. Module, optimiser and schedulers stay the same objects.

    The optimiser's state is carried into the grown part. Learning rates go on by the schedulers' plan; with ``warmup``
    they rise to it from 0 once more.

    Args:
        student: The larger module, of the class of the part.
        at: Steps of the optimiser before growth; at least 1.
        part: Name of the attribute of the LightningModule that grows; default ``"model"``. The optimiser must hold
            parameters of this part alone.
        options: ``fill``, ``map``, ``inputs``, ``warmup`` and ``seed`` of `grow_in_place`.

    Attributes:
        map: The map of the growth; None before it.

    Raises:
        TypeError, ValueError: An argument breaks its rule, or, at growth, there is no such part, or there are several
            optimisers.
    """

    def __init__(self, student: nn.Module, at: int, part: str = "model", **options: Any) -> None:
        instance("part", part, str, "the name of an attribute")
        self.part, self.schedule = part, Schedule(student, at, **options)

    @property
    def map(self) -> Any:
        return self.schedule.map

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.schedule.begin(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *batch: Any, **given: Any
    ) -> None:
        if not self.schedule.due(trainer.global_step):
            return
        if len(trainer.optimizers) != 1:
            raise ValueError(
                f"optimizer: got {len(trainer.optimizers)} optimisers, must be one for a model to grow"
            )
        try:
            model = pl_module.get_submodule(self.part)
        except AttributeError as error:
            raise ValueError(f"part: the LightningModule has no module {self.part!r}") from error
        self.schedule.grow(model, trainer.optimizers[0])
