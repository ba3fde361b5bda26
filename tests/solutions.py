"""A small teacher and student, and what `initialize` makes of them."""

from functools import cache, partial

import torch
import torchopt
from torch import nn

from phiopt.initialize import initialize
from phiopt.solve import TorchOpt
from tests.cases import generator, mlp, randn

QUARTERS = (0.25, 0.25, 0.25, 0.25)
QUICK = TorchOpt(torchopt.adam(5e-3), steps=10, batch_size=16, check_every=10)
CROSS_ENTROPY = partial(nn.functional.cross_entropy, reduction="none")
X, Y = randn(40, 4, seed=3), torch.randint(2, (40,), generator=generator(4))


def teacher():
    return mlp(4, 3, 2, seed=1)


def student():
    return mlp(4, 5, 3, seed=2)


def solved(lambdas=QUARTERS, data=(X, Y), **options):
    return initialize(teacher(), student(), lambdas, data, **{"solver": QUICK} | options)


@cache
def plain():
    """What is solved without options; it is looked at and never changed."""
    return solved()


def storages(*modules):
    """Where the parameters and buffers are stored."""
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    return {t.untyped_storage().data_ptr() for t in tensors}


class Bare(nn.Module):
    """One number per example, and no axis of classes."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).logsumexp(1)


BARE = {"teacher": Bare(teacher()), "student": Bare(student()), "data": (X, X[:, 0])}
