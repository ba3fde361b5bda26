"""Sample efficiency: |D2| from 100 to all, where a warm start should matter most.

The classes grow as in `classes`.  D1 is all training images of the classes 0 to 4, whatever |D2|.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from experiments.classes import KNOWN, TITLE, known_classes
from experiments.data import Source, Splits, fashion_mnist
from experiments.experiment import Experiment
from experiments.scales import NETWORKS, Scale
from experiments.task import Task

SIZES = (100, 300, 1000, 3000, 10_000, 30_000)


def tasks(scale: Scale, images: Source) -> list[Task]:
    """One task for each architecture and number of images, the last all of the scale's."""
    splits = scale.splits(images)
    whole = scale.limit or len(images[0].x) - scale.validation
    sizes = [*(size for size in SIZES if size < whole), None]
    return [_task(scale, name, size, splits) for name in NETWORKS for size in sizes]


def _task(scale: Scale, network: str, size: int | None, splits: Callable[[int], Splits]) -> Task:
    def fewer(seed: int) -> Splits:
        whole = splits(seed)
        return whole._replace(train=whole.train.take(torch.arange(size or len(whole.train.x))))

    def known(seed: int) -> Splits:
        return Splits(*(part.of(KNOWN) for part in splits(seed)))

    task = known_classes(scale, network, TITLE, splits)
    label = size or "all"
    return replace(
        task,
        name=f"{network}-{label}",
        title=f"{task.title}, |D2| = {label}",
        splits=fewer,
        teacher_splits=known,
        shares_teacher=network,
    )


EXPERIMENT = Experiment("samples", fashion_mnist, tasks, mlp_at_quick=True)
