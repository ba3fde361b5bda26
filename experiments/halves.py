"""The warm-start gap (Ash & Adams, 2020): half of the data first, then all of it.

The tasks ``…-same`` continue the network that has seen half, ``…-grown`` grow it before they go on.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from experiments.data import Source, Splits, fashion_mnist
from experiments.experiment import Experiment
from experiments.scales import FASHION, NETWORKS, Scale
from experiments.task import Task


def tasks(scale: Scale, images: Source) -> list[Task]:
    """Two tasks for each architecture."""
    splits = scale.splits(images)
    return [_task(scale, name, splits, grown=grown) for name in NETWORKS for grown in (False, True)]


def _task(scale: Scale, network: str, splits: Callable[[int], Splits], *, grown: bool) -> Task:
    def half(seed: int) -> Splits:
        whole = splits(seed)
        return whole._replace(train=whole.train.take(torch.arange(len(whole.train.x) // 2)))

    task = scale.task(network, "Fashion-MNIST, half then all", FASHION, FASHION, splits)
    label = "grown" if grown else "same"
    return replace(
        task,
        name=f"{network}-{label}",
        title=f"{task.title}, {'grown' if grown else 'same size'}",
        student=task.student if grown else task.teacher,
        teacher_splits=half,
        shares_teacher=network,
    )


EXPERIMENT = Experiment("halves", fashion_mnist, tasks, mlp_at_quick=True)
