"""The demo: a teacher of the digits 0 to 4 grows into a larger student of all ten."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from experiments import study
from experiments.data import digits
from experiments.models import MLP
from experiments.records import RunDirectory
from experiments.scales import PHI
from experiments.task import Task
from experiments.train import Recipe

RATES = (3e-3, 1e-2)
TASK = Task(
    name="digits",
    title="Digits 0-4 to 0-9",
    teacher=partial(MLP, 64, (32, 16), 5),
    student=partial(MLP, 64, (64, 32), 10),
    splits=digits,
    classes=(0, 1, 2, 3, 4),
    teacher_recipe=Recipe(budget=400, batch_size=64, learning_rates=RATES),
    student_recipe=Recipe(budget=1000, batch_size=64, learning_rates=RATES),
    phi=replace(PHI, restrict_classes=True),
    theta=0.05,
)


def run(seeds: Sequence[int], methods: Sequence[str], out: Path) -> None:
    """Run what is missing in ``out``, print the tables and write the report there."""
    directory = RunDirectory(out, study.settings("demo", [TASK]))
    study.finish(TASK, methods, seeds, directory, torch.device("cpu"), suffix=".png")
