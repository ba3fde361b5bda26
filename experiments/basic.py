"""The paper's experiments 1 and 2: teacher and student on the same data set, Fashion-MNIST.

One set of trained students answers both: accuracy and loss against the length of training, then of
the trained students against the percentage of corrupted pixels.
"""

from experiments.data import Source, fashion_mnist
from experiments.experiment import Experiment
from experiments.scales import FASHION, NETWORKS, Scale
from experiments.task import Task


def tasks(scale: Scale, images: Source) -> list[Task]:
    """One task for each architecture."""
    splits = scale.splits(images)
    return [scale.task(name, "Fashion-MNIST", FASHION, FASHION, splits) for name in NETWORKS]


EXPERIMENT = Experiment("basic", fashion_mnist, tasks)
