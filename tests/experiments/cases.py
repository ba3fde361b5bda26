"""A scale at which every experiment runs in seconds, on images made up from a seed."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from experiments.data import Examples, digits
from experiments.models import MLP
from experiments.scales import Scale, Widths
from experiments.task import Task
from experiments.train import Recipe

CPU = torch.device("cpu")
TINY = Scale(
    name="tiny",
    seeds=2,
    limit=128,
    validation=40,
    test=30,
    teacher_budget=3,
    student_budget=2,
    teacher=Widths(mlp=(4, 4), maps=(1, 2), hidden=4, lstm=3),
    student=Widths(mlp=(6, 5), maps=(2, 3), hidden=5, lstm=4),
)


def study_task(recipe, phi):
    """Digits 0 to 4 for the teacher, 5 to 9 for the student, of small MLPs."""
    return Task(
        name="tiny",
        title="Tiny digits",
        teacher=partial(MLP, 64, (6,), 5),
        student=partial(MLP, 64, (9,), 10),
        splits=digits,
        classes=(5, 6, 7, 8, 9),
        teacher_recipe=recipe,
        student_recipe=recipe,
        phi=phi,
        theta=0.05,
    )


def made_up(count, seed, channels=1, size=28):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, channels, size, size, generator=generator)
    return Examples(x, torch.arange(count) % 10)


def undrawn(patch):
    """Until the patch is undone, a figure is saved as an empty file: drawing takes a second each."""
    patch.setattr(
        Figure, "savefig", lambda figure, path, **options: Path(path).write_text("<svg/>")
    )


def performed(
    experiment,
    images,
    out,
    *,
    scale=TINY,
    names=None,
    methods=("scratch",),
    seeds=(0,),
    figures=False,
):
    """Run the experiment with one learning rate and return its tasks; without ``figures`` these are empty."""
    tasks = [
        replace(task, student_recipe=Recipe(task.student_recipe.budget, 32, (1e-3,)))
        for task in experiment.tasks(scale, images)
    ]
    with pytest.MonkeyPatch.context() as patch:
        if not figures:
            undrawn(patch)
        experiment.run(scale, tasks, names, methods, seeds, CPU, out)
    return tasks
