"""Knowledge distillation (Hinton et al., 2015): scratch, trained towards the teacher's soft targets too.

    (1 - α) l(y, f(x)) + α T² KL(softmax(g(x) / T) ‖ softmax(f(x)[C1] / T))

over the outputs of the teacher's classes C1.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from experiments.ensemble import Model
from experiments.methods import Growth, mapped, scratch
from experiments.rivals.common import Hooked
from phiopt.lift import Identity

TEMPERATURE = 2.0
WEIGHT = 0.5


@dataclass(frozen=True)
class Distillation:
    """The loss of a training step; a forward pass of the teacher costs a third of a gradient."""

    teacher: nn.Module
    """In evaluation mode; takes the student's inputs."""
    classes: Sequence[int] | None = None
    """Student output index of each of the teacher's classes; None: the first c1."""
    temperature: float = TEMPERATURE
    weight: float = WEIGHT
    cost: float = 1 + 1 / 3

    @torch.no_grad()
    def prepare(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, ...]:
        return x, y, self.teacher(x) / self.temperature

    def __call__(self, model: Model, *prepared: Tensor) -> Tensor:
        x, y, target = prepared
        outputs = model(x)
        known = range(target.shape[1]) if self.classes is None else self.classes
        soft = F.log_softmax(outputs[:, list(known)] / self.temperature, 1)
        divergence = F.kl_div(
            soft, F.log_softmax(target, 1), log_target=True, reduction="batchmean"
        )
        hard = F.cross_entropy(outputs, y)
        return (1 - self.weight) * hard + self.weight * self.temperature**2 * divergence


def distillation(growth: Growth, seed: int) -> Hooked:
    """T = 2 and α = ½. Raises ``ValueError`` where D2's inputs are not the teacher's."""
    student = scratch(growth, seed).student
    lift = mapped(growth, student).lift
    if not isinstance(lift, Identity):
        raise ValueError(
            f"student: reads {lift} of the teacher's inputs, must read the same: the teacher has no "
            "soft targets for D2"
        )
    teacher = deepcopy(growth.teacher).eval()
    return Hooked(student, loss=Distillation(teacher, growth.classes))
