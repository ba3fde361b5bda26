"""The paper's experiment 3: the teacher knows half of Fashion-MNIST's classes, the student learns all.

The tasks ``authors`` and ``authors-linear`` are the setting of the paper's authors: a teacher with
ten outputs that has seen the classes 0 to 4, a wider second hidden layer, Adam at 1e-4 on batches of
256; with the ReLU they have after the output layer, and without it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from experiments.data import Source, Splits, fashion_mnist
from experiments.experiment import Experiment
from experiments.models import MLP
from experiments.scales import FASHION, NETWORKS, Scale
from experiments.task import Task
from experiments.train import Recipe

KNOWN = (0, 1, 2, 3, 4)
TITLE = "Fashion-MNIST, classes 0-4 to 0-9"


def tasks(scale: Scale, images: Source) -> list[Task]:
    """One task for each architecture and the two of the authors' setting."""
    splits = scale.splits(images)
    grown = [known_classes(scale, name, TITLE, splits) for name in NETWORKS]
    return [
        *grown,
        _authors(scale, splits, relu_head=True),
        _authors(scale, splits, relu_head=False),
    ]


def known_classes(scale: Scale, network: str, title: str, splits: Callable[[int], Splits]) -> Task:
    """A teacher of the first five classes; φ's losses on D1* are over these outputs alone."""
    teacher = FASHION._replace(classes=len(KNOWN))
    task = scale.task(network, title, teacher, FASHION, splits)
    return replace(task, classes=KNOWN, phi=replace(task.phi, restrict_classes=True))


def _authors(scale: Scale, splits: Callable[[int], Splits], *, relu_head: bool) -> Task:
    def known(seed: int) -> Splits:
        return Splits(*(part.of(KNOWN) for part in splits(seed)))

    head = "ReLU head" if relu_head else "linear head"
    task = scale.task("mlp", TITLE, FASHION, FASHION, splits)
    return replace(
        task,
        name="authors" if relu_head else "authors-linear",
        title=f"{TITLE}, authors' MLP with a {head}",
        teacher=partial(MLP, 784, (128, 64, 32), 10, relu_head=relu_head),
        student=partial(MLP, 784, (128, 128, 32), 10, relu_head=relu_head),
        teacher_splits=known,
        teacher_recipe=Recipe(scale.teacher_budget, batch_size=256, learning_rates=(1e-4,)),
        student_recipe=Recipe(scale.student_budget, batch_size=256, learning_rates=(1e-4,)),
    )


EXPERIMENT = Experiment("classes", fashion_mnist, tasks)
