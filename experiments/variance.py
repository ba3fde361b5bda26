"""Prediction variance over student seeds with one teacher (paper, section 5.2).

All seeds have the teacher and the parts of seed 0; fresh weights, φ's draws and the order of batches are
their own.
"""

from dataclasses import replace

from experiments.data import Source, fashion_mnist
from experiments.experiment import Experiment
from experiments.scales import Scale
from experiments.task import Task
from experiments.variants import both


def tasks(scale: Scale, images: Source) -> list[Task]:
    """The architectures of `classes`, then those of `basic`."""
    return [
        replace(task, title=f"{task.title}, one teacher", one_teacher=True)
        for task in both(scale, images)
    ]


EXPERIMENT = Experiment("variance", fashion_mnist, tasks, mlp_at_quick=True)
