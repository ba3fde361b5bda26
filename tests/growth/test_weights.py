"""Weights that are computed from weights, read in part or looked up in bags keep the function as plain ones do."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from phiopt.growth import GrowthMap, grow
from tests.growth.nets import randomised

KEPT = ("zero-out", "net2wider", "vv-zz")


def features(seed=0):
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images():
    return features().reshape(4, 1, 6, 1).expand(4, 1, 6, 6).contiguous()


def tokens(length=5):
    return torch.randint(9, (4, length), generator=torch.Generator().manual_seed(0))


def check_kept(fill, teacher, student, x):
    masks = {m: m.mask.clone() for m in (teacher, student) if hasattr(m, "mask")}
    teacher, student = (
        randomised(m.double(), seed).eval() for seed, m in enumerate((teacher, student))
    )
    for model, mask in masks.items():
        model.mask.copy_(mask)
    growth = GrowthMap.between(teacher, student, inputs=x)
    grown = grow(teacher, student, fill, map=growth)
    assert not growth.inexact_reasons
    torch.testing.assert_close(grown(x)[:, : teacher(x).shape[1]], teacher(x), rtol=0, atol=1e-12)


def spectral_linear(width, classes):
    layers = spectral_norm(nn.Linear(6, width)), spectral_norm(nn.Linear(width, classes))
    return nn.Sequential(layers[0], nn.Tanh(), layers[1])


def spectral_convolutions(width, classes):
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.Tanh(),
        spectral_norm(nn.Conv2d(width, width + 1, 3)),
        spectral_norm(nn.ConvTranspose2d(width + 1, width, 2)),
        nn.Flatten(),
        nn.Linear(9 * width, classes),
    )


class LowRank(nn.Module):
    """A layer whose weight is W + BA, as a low-rank adaptation is."""

    def __init__(self, width: int, rank: int, classes: int) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, width), nn.Linear(width, classes)
        self.a, self.b = nn.Parameter(torch.empty(rank, 6)), nn.Parameter(torch.empty(width, rank))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight + self.b @ self.a
        return self.head(nn.functional.linear(x, weight, self.layer.bias).tanh())


class LearnedQuery(nn.Module):
    """Attention pooling by one query, which goes through the keys' weight beforehand."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layer, self.key = nn.Linear(1, width), nn.Linear(width, width, bias=False)
        self.query, self.head = nn.Parameter(torch.empty(width)), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        units = self.layer(x[:, :, None]).tanh()
        shares = (units @ (self.key.weight.T @ self.query)).softmax(1)
        return self.head((shares[:, :, None] * units).sum(1))


class Bags(nn.Module):
    def __init__(self, words: int, width: int, classes: int, mode: str) -> None:
        super().__init__()
        self.bags, self.head = nn.EmbeddingBag(words, width, mode=mode), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bags(x))


class Context(nn.Module):
    """Causal attention over at most ``length`` tokens: a table of positions, and a mask as a buffer."""

    def __init__(self, words: int, width: int, length: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.positions = nn.Parameter(torch.empty(1, length, width))
        self.qkv, self.head = nn.Linear(width, 3 * width), nn.Linear(width, words)
        self.register_buffer("mask", torch.ones(1, length, length, dtype=torch.bool).tril())

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        q, k, v = self.qkv(self.words(x) + self.positions[:, :n]).chunk(3, -1)
        scores = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).masked_fill(
            ~self.mask[:, :n, :n], -math.inf
        )
        return self.head(scores.softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("fill", KEPT)
def test_spectral_norm(fill):
    check_kept(fill, spectral_linear(4, 3), spectral_linear(7, 4), features())
    check_kept(fill, spectral_convolutions(3, 3), spectral_convolutions(5, 4), images())


def test_new_units_under_spectral_norm_are_alive():
    teacher, student = spectral_linear(4, 3).double(), spectral_linear(7, 3).double()
    grown = grow(teacher, student, "zero-out")
    assert grown[0].parametrizations.weight.original[4:].abs().min() > 0


@pytest.mark.parametrize("fill", KEPT)
def test_products_of_weights(fill):
    check_kept(fill, LowRank(4, 2, 3), LowRank(7, 3, 4), features())
    check_kept(fill, LearnedQuery(4, 3), LearnedQuery(7, 4), features())


@pytest.mark.parametrize("fill", KEPT)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_words(mode, fill):
    check_kept(fill, Bags(9, 4, 3, mode), Bags(12, 7, 4, mode), tokens())


@pytest.mark.parametrize("fill", KEPT)
@pytest.mark.parametrize("length", [5, 3])
def test_a_longer_context(length, fill):
    """Inputs as long as the teacher's tables, of which it reads the whole, or shorter."""
    check_kept(fill, Context(9, 4, 5), Context(11, 6, 8), tokens(length))


def test_a_part_in_steps_is_refused():
    class Every(Context):
        def forward(self, x: Tensor) -> Tensor:
            step = self.positions.shape[1] // 5
            return self.head(self.words(x) + self.positions[:, ::step])

    with pytest.raises(ValueError, match="every 2-th coordinate"):
        GrowthMap.between(Every(9, 4, 5), Every(9, 4, 10), inputs=tokens())
