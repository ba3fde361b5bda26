"""What the experiments share: the networks, the lengths of training and the seeds of each scale."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from experiments.data import Source, Splits, split
from experiments.methods import Descent, Phi
from experiments.models import CNN, LSTM, MLP
from experiments.task import Task
from experiments.train import Recipe
from phiopt import Corruption

NETWORKS = {"mlp": "MLP", "cnn": "CNN", "lstm": "LSTM"}
RATES = (1e-4, 5e-4, 2.5e-3)
PHI = Phi(
    Corruption(0.3),
    batch_size=16,
    three_terms=Descent(120, 3e-3),
    four_terms=Descent(120, 3e-3),
)


class Shape(NamedTuple):
    """Square images of so many channels and pixels, and the number of their classes."""

    channels: int
    size: int
    classes: int


FASHION = Shape(1, 28, 10)


@dataclass(frozen=True)
class Widths:
    """Hidden sizes of each architecture."""

    mlp: tuple[int, ...]
    maps: tuple[int, ...]
    """Of the CNN's convolutions."""
    hidden: int
    """Of the CNN's fully connected layer."""
    lstm: int

    def build(self, network: str, shape: Shape) -> nn.Module:
        channels, size, classes = shape
        if network == "mlp":
            return MLP(channels * size**2, self.mlp, classes)
        if network == "cnn":
            return CNN(channels, size, self.maps, self.hidden, classes)
        return LSTM(channels * size, self.lstm, classes)


@dataclass(frozen=True)
class Scale:
    """How much of the data, how long and with how many seeds."""

    name: str
    seeds: int
    limit: int | None
    """Training images of a seed; None: all that validation leaves."""
    validation: int
    test: int | None
    teacher_budget: int
    student_budget: int
    teacher: Widths
    student: Widths

    def splits(self, images: Source) -> Callable[[int], Splits]:
        """The parts of a data set as this scale takes them, by seed."""
        train, test = images
        if self.test is not None:
            test = test.take(torch.arange(self.test))
        return lambda seed: split(
            train, test, validation=self.validation, seed=seed, limit=self.limit
        )

    def task(
        self,
        network: str,
        title: str,
        teacher: Shape,
        student: Shape,
        splits: Callable[[int], Splits],
    ) -> Task:
        """From a teacher of one shape to a student of the other; D2 comes from ``splits``."""
        return Task(
            name=network,
            title=f"{title}, {NETWORKS[network]}",
            teacher=partial(self.teacher.build, network, teacher),
            student=partial(self.student.build, network, student),
            splits=splits,
            teacher_recipe=Recipe(self.teacher_budget, batch_size=128, learning_rates=RATES),
            student_recipe=Recipe(self.student_budget, batch_size=128, learning_rates=RATES),
            phi=PHI,
            theta=0.01,
        )


SCALES = {
    "quick": Scale(
        name="quick",
        seeds=3,
        limit=6000,
        validation=2000,
        test=2000,
        teacher_budget=800,
        student_budget=800,
        teacher=Widths(mlp=(64, 32), maps=(4, 8), hidden=32, lstm=32),
        student=Widths(mlp=(128, 64), maps=(8, 16), hidden=64, lstm=64),
    ),
    "full": Scale(
        name="full",
        seeds=10,
        limit=None,
        validation=10_000,
        test=None,
        teacher_budget=8000,
        student_budget=12_000,
        teacher=Widths(mlp=(128, 64), maps=(16, 32), hidden=64, lstm=64),
        student=Widths(mlp=(256, 128), maps=(32, 64), hidden=128, lstm=128),
    ),
}
