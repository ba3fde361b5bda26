"""Which examples a check of derivatives looks at."""

from __future__ import annotations

import torch
from torch import Tensor

from phiopt._inputs import Inputs, Targets, main_of

SPREAD = 12
"""Examples evenly spread over the data: a sorted data set begins with one label alone."""
EXTREME = 2
"""Examples with the largest inputs, and as many with the smallest."""
LABELS = 16
"""Most labels of which an example is taken."""


def telling_examples(inputs: Inputs, targets: Targets) -> Tensor:
    """Positions of a few examples on which a loss or a model may behave in different ways, in the order of the
    data: 8 at least, if there are so many, and 32 at most.

    They are evenly spread ones, those with the largest and the smallest inputs, and the first of each label where
    ``targets`` ``(batch,)`` are whole numbers. Of several inputs the main one tells their size.
    """
    inputs, count = main_of(inputs), len(inputs)
    positions = [torch.linspace(0, count - 1, min(count, SPREAD), device="cpu").round().long()]
    if inputs[0].numel():
        order = _sizes(inputs).argsort(stable=True).cpu()
        positions += [order[:EXTREME], order[-EXTREME:]]
    if isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point():
        labels, which = targets.cpu().unique(return_inverse=True)
        firsts = torch.full_like(labels, count).scatter_reduce(
            0, which, torch.arange(count, device="cpu"), "amin"
        )
        positions.append(
            firsts[
                torch.linspace(0, len(labels) - 1, min(len(labels), LABELS), device="cpu")
                .round()
                .long()
            ]
        )
    return torch.cat(positions).unique()


def few_examples(inputs: Inputs) -> Tensor:
    """Positions of two examples: those with the largest and the smallest inputs."""
    x = main_of(inputs)
    order = _sizes(x).argsort(stable=True).cpu() if x[0].numel() else torch.arange(len(x))
    return torch.stack([order[0], order[-1]]).sort().values


def _sizes(x: Tensor) -> Tensor:
    """The largest entry of each example, in absolute value."""
    return x.detach().flatten(1).abs().amax(1) if x.dim() > 1 else x.abs()
