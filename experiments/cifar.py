"""The paper's experiment 4: the teacher knows Fashion-MNIST, the student learns CIFAR-10.

ψ pads an image at the right and bottom and repeats its channel, Compose(Pad((32, 32)), Channels(3)).
The padding is done when the data is read, so that the teacher learns images of 32×32 pixels: the
feature grids of both networks agree, and an LSTM reads as many rows of either data set.  Each data
set is standardised by the mean and deviation of its own training images.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from experiments.data import Examples, Source, cifar10, cifar10_source, fashion_mnist
from experiments.experiment import Experiment
from experiments.methods import Descent
from experiments.scales import NETWORKS, Scale, Shape
from experiments.task import Task
from phiopt import Corruption
from phiopt._types import Lift
from phiopt.lift import Channels, Pad

TEACHER = Shape(1, 32, 10)
STUDENT = Shape(3, 32, 10)
LIFT = Channels(3)


class Images(NamedTuple):
    """D1's data set and D2's."""

    fashion: Source
    cifar: Source
    source: str
    """Of CIFAR-10, see `cifar10_source`."""


class Standardised(NamedTuple):
    """A data set of mean 0 and deviation 1, and the range that [0, 1] has become."""

    images: Source
    pixels: tuple[float, float]


def load(root: Path, *, download: bool) -> Images:
    """Fashion-MNIST and CIFAR-10 of ``--data``."""
    fashion, cifar = (read(root, download=download) for read in (fashion_mnist, cifar10))
    return Images(fashion, cifar, cifar10_source(root))


def tasks(scale: Scale, images: Images) -> list[Task]:
    """One task for each architecture."""
    fashion = standardised(padded(images.fashion, Pad((STUDENT.size, STUDENT.size))))
    cifar = standardised(images.cifar)
    return [task(scale, network, fashion, cifar, images.source) for network in NETWORKS]


def padded(images: Source, pad: Lift) -> Source:
    """Both parts with ``pad`` applied to their images."""
    train, test = images
    return Examples(pad(train.x), train.y), Examples(pad(test.x), test.y)


def standardised(images: Source) -> Standardised:
    """Both parts by the training images' mean and deviation over all channels."""
    train, test = images
    mean, sd = train.x.mean(), train.x.std()
    low, high = ((bound - mean) / sd for bound in (0, 1))
    parts = (Examples((part.x - mean) / sd, part.y) for part in (train, test))
    return Standardised((next(parts), next(parts)), (low.item(), high.item()))


def task(
    scale: Scale, network: str, fashion: Standardised, cifar: Standardised, source: str
) -> Task:
    """From a teacher of ``fashion`` to a student of ``cifar``, whose ``source`` the title names."""
    title = f"Fashion-MNIST to CIFAR-10 ({source})"
    task = scale.task(network, title, TEACHER, STUDENT, scale.splits(cifar.images))
    return replace(
        task,
        teacher_splits=scale.splits(fashion.images),
        phi=replace(
            task.phi,
            neighbourhood=_corruption(fashion),
            # Standardised inputs are larger, and at the other tasks' rates the MLP's objective rises; more steps cost
            # more area under the curve than they bring on another data set.
            three_terms=Descent(40, 5e-4),
            four_terms=Descent(40, 5e-4),
        ),
        lift=LIFT,
        pixels=cifar.pixels,
        criterion=_corruption(cifar),
    )


def _corruption(data: Standardised) -> Corruption:
    low, high = data.pixels
    return Corruption(0.3, low=low, high=high)


EXPERIMENT = Experiment("cifar", load, tasks)
