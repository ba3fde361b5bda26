"""Pairs of networks that differ in a part, and what a map says of them."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phiopt.growth import AlignmentError, GrowthMap, compare, grow
from tests.growth.nets import randomised

ROUNDING = 1e-9
EXACT, REMARKED, REFUSED = "exact", "remarked", ("refused", "caught")
NOT_SILENT = (EXACT, REMARKED, *REFUSED)
"""What `said` starts with."""
INPUTS = {
    "vector": torch.Size((5, 6)),
    "image": torch.Size((3, 6, 9, 9)),
    "steps": torch.Size((3, 5, 6)),
}


class Net(nn.Module):
    """A first layer of ``width`` units, what a case makes of them, and a head."""

    def __init__(self, kind: str, made, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Conv2d(6, width, 3, padding=1) if kind == "image" else nn.Linear(6, width)
        self.made = made(width) if getattr(made, "of_width", False) else made
        self.head = nn.LazyLinear(3)
        self.double()(torch.zeros(INPUTS[kind], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        h = self.made(self.first(x))
        return self.head(h.mean((2, 3)) if h.ndim == 4 else h)


def of_width(make):
    """A part that is built for the width of the layer before it."""
    make.of_width = True
    return make


def outcome(kind, old, new, widths=(8, 8), fill="zero-out"):
    """What is said of a pair of networks that differ in a part."""
    x = torch.randn(INPUTS[kind], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return said(Net(kind, old, widths[0]), Net(kind, new, widths[1]), x, fill)


def said(teacher, student, x, fill="zero-out"):
    """What the map says: refused, remarked, caught by the check on numbers, or whether the function is kept."""
    teacher, student = (
        randomised(model.double(), seed).eval() for seed, model in enumerate((teacher, student))
    )
    try:
        growth = GrowthMap.between(teacher, student, inputs=x)
    except AlignmentError as error:
        return f"refused: {error}"
    if growth.inexact_reasons:
        return f"remarked: {'; '.join(growth.inexact_reasons)}"
    try:
        grown = grow(teacher, student, fill, map=growth, inputs=x)
    except AlignmentError as error:
        return f"caught: {error}"
    change = compare(teacher, grown, growth, inputs=x)
    return "exact" if change.max_rel < ROUNDING else f"silent: {change}"


def check(expected, teacher, student, x, fill="zero-out"):
    """The map says what is expected."""
    answer = said(teacher, student, x, fill)
    assert answer.startswith(expected), answer


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, 4)).transpose(1, 2)


def attention(**options):
    """Attention of the units to themselves, in heads of four."""
    return lambda x: (
        F.scaled_dot_product_attention(*3 * [heads(x)], **options).transpose(1, 2).flatten(2)
    )


def mask(value=-9.0):
    return torch.zeros(5, 5).double().masked_fill(torch.ones(5, 5).triu(1).bool(), value)


def ramp(*shape, end=1.0):
    return torch.linspace(0, end, math.prod(shape)).double().view(shape)


def thrice(x: Tensor) -> Tensor:
    return x.unsqueeze(1).expand(-1, 3, -1, -1).cumsum(1)


def resampled(corners: bool):
    """Pixels at the points of a grid that is a constant."""

    def sample(x):
        whole = torch.eye(2, 3).double().expand(len(x), -1, -1)
        return F.grid_sample(x, F.affine_grid(whole, x.shape, False), align_corners=corners)

    return sample


class Recurrent(nn.Module):
    def __init__(self, layer, reverse=False):
        super().__init__()
        self.layer, self.reverse = layer, reverse

    def forward(self, x):
        return self.layer(x.flip(1) if self.reverse else x)[0]


def recurrent(kind, reverse=False, **options):
    return of_width(lambda w: Recurrent(kind(w, w, batch_first=True, **options), reverse))


def table(**options):
    """A table of positions, read at whole numbers made of the units' own order."""

    class Positions(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.table = nn.Embedding(5, width, **options)

        def forward(self, x):
            return x + self.table(torch.arange(5))

    return of_width(Positions)


def pool(name, *args, **options):
    return lambda x: getattr(F, name)(x, *args, **options)


class Held(nn.Module):
    """A constant as an attribute, which is no buffer."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x + self.value


def listed(cases, slow):
    """Each pair at equal widths and at a larger student's; one of the two takes part in the slow run only."""
    return [
        pytest.param(
            *pair,
            (8, width),
            id=f"{name}, 8 to {width}",
            marks=[pytest.mark.slow] if width == slow else [],
        )
        for name, pair in cases.items()
        for width in (8, 12)
    ]
