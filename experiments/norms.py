"""What becomes of the statistics of batch normalisation when a network grows: kept, reset, or taken on D2.

They are the teacher's where it has them, and 0 and 1 for new units; training moves them on.
"""

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from experiments.methods import Growth, Initialised, default, phi_slice
from experiments.task import Method

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def reset(method: Method) -> Method:
    """Mean 0 and variance 1 everywhere."""

    def variant(growth: Growth, seed: int) -> Initialised:
        initialised = method(growth, seed)
        student = deepcopy(initialised.student)
        for norm in _norms(student):
            norm.reset_running_stats()
        return replace(initialised, student=student)

    return variant


def recomputed(method: Method) -> Method:
    """Means over one pass of D2's training part, which costs a third of its evaluations."""

    def variant(growth: Growth, seed: int) -> Initialised:
        if growth.d2 is None:
            raise ValueError("d2: got None, must be given: the statistics are taken on it")
        initialised = method(growth, seed)
        student, (train, _) = deepcopy(initialised.student), growth.d2
        momenta = {norm: norm.momentum for norm in _norms(student)}
        for norm in momenta:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
        mode = student.training
        with torch.no_grad():
            for batch in train.x.split(growth.batch_size):
                student.train()(batch)
        student.train(mode)
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        spent = initialised.gradients + len(train.x) / growth.batch_size / 3
        return replace(
            initialised,
            student=student,
            gradients=spent,
            start=initialised.start or initialised.student,
        )

    return variant


def _norms(student: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    return [module for module in student.modules() if isinstance(module, NORMS)]


STATISTICS: dict[str, Method] = {
    f"{method.__name__}-statistics-{name}": change(method)
    for method in (default, phi_slice)
    for name, change in (("reset", reset), ("recomputed", recomputed))
}
