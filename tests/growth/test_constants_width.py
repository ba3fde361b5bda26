"""Constants that depend on the width: refused, remarked, or without effect."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.growth.pairs import EXACT, NOT_SILENT, REFUSED, REMARKED, check

WIDER, TWICE = (8, 12), (8, 16)


def drawn(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


VECTORS, IMAGES, TOKENS = drawn(4, 4), drawn(3, 2, 8, 8), torch.arange(15).view(3, 5) % 7


class Part(nn.Module):
    """A function of a value and a width."""

    def __init__(self, function, width: int) -> None:
        super().__init__()
        self.function, self.width = function, width

    def forward(self, x):
        return self.function(x, self.width)


class Language(nn.Module):
    """A table of tokens, scaled, a block, and logits, scaled."""

    def __init__(self, width: int, into=lambda w: 1.0, out=lambda w: 1.0, tied=False) -> None:
        super().__init__()
        self.table, self.inner, self.back = (
            nn.Embedding(7, width),
            nn.Linear(width, 6),
            nn.Linear(6, width),
        )
        self.head = nn.Linear(width, 7, bias=False)
        if tied:
            self.head.weight = self.table.weight
        self.into, self.out = into(width), out(width)

    def forward(self, x):
        x = self.table(x) * self.into
        return self.head(x + self.back(self.inner(x).relu())) * self.out


def language(**options):
    return lambda width: Language(width, **options)


class Cosine(nn.Module):
    def __init__(self, width: int, temperature) -> None:
        super().__init__()
        self.weight, self.temperature = nn.Parameter(torch.randn(3, width)), temperature(width)

    def forward(self, x):
        return F.normalize(x, dim=-1) @ F.normalize(self.weight, dim=-1).T * self.temperature


class Buffered(nn.Module):
    def __init__(self, width: int, value) -> None:
        super().__init__()
        self.register_buffer("factor", value(width))

    def forward(self, x):
        return x.tanh() * self.factor


class Excited(nn.Module):
    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, width // ratio), nn.Linear(width // ratio, width)

    def forward(self, x):
        return x * self.up(self.down(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]


def vectors(part, images=False):
    """A first layer, a part made for its width, and a last one for what the part makes."""
    x = torch.zeros(2, 2, 8, 8) if images else torch.zeros(2, 4)

    def made(width):
        first = nn.Conv2d(2, width, 3, padding=1) if images else nn.Linear(4, width)
        last = (nn.LazyConv2d(3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()) if images else ()
        net = nn.Sequential(first, part(width), *last, nn.LazyLinear(3))
        net(x)
        return net

    return made


def function(f, images=False):
    return vectors(lambda width: Part(f, width), images)


def images(part):
    return vectors(part, images=True)


def headed(head):
    return lambda width: nn.Sequential(nn.Linear(4, width), nn.ReLU(), head(width))


def logits(f):
    return headed(lambda width: nn.Sequential(nn.Linear(width, 3), Part(f, width)))


def learned(width):
    return nn.Parameter(torch.tensor(9.0))


def by_mean_square(x, width):
    return x / (x.square().mean(-1, True) + 1e-5).sqrt()


def neighbours(x, width):
    return F.avg_pool3d(x[:, None], (3, 1, 1), 1, (1, 0, 0))[:, 0]


def shuffled(x, groups):
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


CASES = {
    "tokens by sqrt of the width": (language(into=math.sqrt), WIDER, TOKENS, EXACT),
    "the same, tied": (language(into=math.sqrt, tied=True), WIDER, TOKENS, REMARKED),
    "muP's multiplier": (language(out=lambda w: 1 / w), WIDER, TOKENS, EXACT),
    "muP's multiplier, tied": (language(out=lambda w: 1 / w, tied=True), WIDER, TOKENS, REMARKED),
    "a temperature by width": (logits(lambda x, w: (x / w).softmax(-1)), WIDER, VECTORS, EXACT),
    "a cosine head": (headed(lambda w: Cosine(w, lambda w: 10.0)), WIDER, VECTORS, EXACT),
    "a cosine head, learned": (headed(lambda w: Cosine(w, learned)), WIDER, VECTORS, EXACT),
    "a cosine head by width": (headed(lambda w: Cosine(w, float)), WIDER, VECTORS, REMARKED),
    "smoothed by width": (logits(lambda x, w: (1 - 1 / w) * x.softmax(-1) + 1 / w), WIDER, VECTORS, REMARKED),
    "dropout by width": (headed(lambda w: nn.Sequential(nn.Dropout(4 / w), nn.Linear(w, 3))), WIDER, VECTORS, EXACT),
    "a buffer by width": (vectors(lambda w: Buffered(w, lambda w: torch.full((w,), 1 / w))), WIDER, VECTORS, EXACT),
    # Over the units.
    "normalize": (function(lambda x, w: F.normalize(x, dim=-1)), WIDER, VECTORS, EXACT),
    "normalize to sqrt width": (function(lambda x, w: F.normalize(x, dim=-1) * w**0.5), WIDER, VECTORS, REMARKED),
    "softmax": (function(lambda x, w: x.softmax(-1) * w), WIDER, VECTORS, REMARKED),
    "centred": (function(lambda x, w: x - x.mean(-1, True)), WIDER, VECTORS, EXACT),
    "centred by hand": (function(lambda x, w: x - x.sum(-1, True) / w), WIDER, VECTORS, REMARKED),
    "mean square": (function(by_mean_square), WIDER, VECTORS, REMARKED),
    "mean square, twice as wide": (function(by_mean_square), TWICE, VECTORS, EXACT),
    "logsumexp less log width": (function(lambda x, w: x.logsumexp(-1, True) - math.log(w)), WIDER, VECTORS, REMARKED),
    "standard deviation": (function(lambda x, w: x / x.std(-1, keepdim=True)), WIDER, VECTORS, REMARKED),
    "top quarter": (function(lambda x, w: x * (x >= x.topk(w // 4, -1).values[:, -1:])), WIDER, VECTORS, REMARKED),
    "rolled by half": (function(lambda x, w: x.roll(w // 2, -1)), WIDER, VECTORS, REFUSED),
    "times the width": (function(lambda x, w: x.tanh() * x.shape[-1]), WIDER, VECTORS, REMARKED),
    "ramp": (function(lambda x, w: x * torch.linspace(0, 1, w)), WIDER, VECTORS, REMARKED),
    "maxout": (function(lambda x, w: x.unflatten(-1, (-1, 2)).amax(-1)), WIDER, VECTORS, EXACT),
    "a gated unit": (function(lambda x, w: F.glu(x, -1)), WIDER, VECTORS, EXACT),
    # Images.
    "two groups": (images(lambda w: nn.GroupNorm(2, w)), WIDER, IMAGES, REMARKED),
    "groups by width": (images(lambda w: nn.GroupNorm(w // 4, w)), WIDER, IMAGES, EXACT),
    "running statistics": (images(nn.BatchNorm2d), WIDER, IMAGES, EXACT),
    "running statistics, eps by width": (images(lambda w: nn.BatchNorm2d(w, 1 / w)), WIDER, IMAGES, REMARKED),
    "pixel shuffle": (function(lambda x, w: F.pixel_shuffle(x, 2), images=True), WIDER, IMAGES, EXACT),
    "channel shuffle": (function(lambda x, w: shuffled(x, 2), images=True), WIDER, IMAGES, EXACT),
    "channel shuffle by width": (function(lambda x, w: shuffled(x, w // 2), images=True), WIDER, IMAGES, EXACT),
    "squeeze and excite": (images(Excited), WIDER, IMAGES, EXACT),
    "pooled to a size by width": (images(lambda w: nn.AdaptiveAvgPool2d(w // 4)), WIDER, IMAGES, REMARKED),
    "mean of channels": (function(lambda x, w: x * x.mean(1, True).sigmoid(), images=True), WIDER, IMAGES, EXACT),
    "response of neighbours": (images(lambda w: nn.LocalResponseNorm(3)), WIDER, IMAGES, REFUSED),
    "three neighbouring channels": (function(neighbours, images=True), WIDER, IMAGES, REMARKED),
}  # fmt: skip
QUICK = {"the same, tied", "muP's multiplier", "a cosine head by width", "normalize", "centred by hand",
         "two groups", "channel shuffle", "squeeze and excite", "response of neighbours"}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CASES]
)
def test_a_constant_of_the_width_is_refused_remarked_or_changes_nothing(name):
    make, (old, new), x, expected = CASES[name]
    check(expected, make(old), make(new), x)


@pytest.mark.slow
@pytest.mark.parametrize("fill", ["net2wider", "vv-zz"])
@pytest.mark.parametrize("name", CASES)
def test_no_fill_is_silently_wrong(name, fill):
    make, (old, new), x, _ = CASES[name]
    check(NOT_SILENT, make(old), make(new), x, fill)
