"""What several rivals need: the task loss on D1* with its batches, and a hook into training."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from experiments.ensemble import TrainingLoss
from experiments.methods import Growth, Initialised
from experiments.train import CROSS_ENTROPY
from phiopt._types import Params
from phiopt.data import Batch, Data
from phiopt.growth import GrowthMap
from phiopt.objective import pure_model, student_loss
from phiopt.objective.task import task

Loss = Callable[[Params, Batch], Tensor]


@dataclass(frozen=True)
class Hooked(Initialised):
    """A student whose training differs too: ``loss`` goes to `experiments.train.tune`."""

    loss: TrainingLoss = CROSS_ENTROPY


def task_loss(growth: Growth, student: nn.Module, map: GrowthMap) -> Loss:
    """L_f(w, batch of D1*), the term that φ has too, over the same classes."""
    model = pure_model(student, map.lift)
    classes = map.classes.to(growth.data.x.device)
    loss = student_loss(None, classes, map.class_axis, growth.phi.restrict_classes)
    return lambda params, batch: task(model, loss, params, *batch)


def batches(growth: Growth, seed: int) -> Callable[[], Batch]:
    """Draws from D1, as many examples as the student's training takes at a time."""
    generator = Generator(growth.data.x.device).manual_seed(seed)
    data = Data((growth.data.x, growth.data.y), growth.data.x.device, growth.data.x.dtype)
    return lambda: data.batch(growth.batch_size, generator)


def normal(like: Tensor, generator: Generator) -> Tensor:
    """Standard normal numbers of a tensor's shape, the same on every device."""
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
