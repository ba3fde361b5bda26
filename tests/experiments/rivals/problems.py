"""A small comparison in float64 that every rival can take: classes 0 to 2 grow to five."""

from functools import partial

import torch

from experiments.data import Examples
from experiments.methods import Descent, Growth, Phi
from experiments.models import CNN, MLP, built
from phiopt import Corruption


def double(factory):
    """The same module in float64."""
    return lambda: factory().double()


NETS = {
    "mlp": (double(partial(MLP, 16, (6, 5), 3)), double(partial(MLP, 16, (9, 12), 5))),
    "cnn": (
        double(partial(CNN, 1, 4, (2, 3), 4, 3)),
        double(partial(CNN, 1, 4, (5, 5), 7, 5)),
    ),
}


def growth_of(name, *, classes=(1, 3, 4)):
    teacher, student = NETS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 1, 4, 4, generator=generator, dtype=torch.float64)
    return Growth(
        teacher=built(teacher, 1),
        student=student,
        data=Examples(x, torch.randint(3, (40,), generator=generator)),
        classes=classes,
        theta=0.05,
        phi=Phi(Corruption(0.3), 40, Descent(4, 1e-2), Descent(2, 1e-2), restrict_classes=True),
        batch_size=40,
    )
