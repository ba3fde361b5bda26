"""Constants that depend on the depth, or on the heads of attention: refused, remarked, or without effect."""

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize
from torch.nn.functional import scaled_dot_product_attention as dot_product

from tests.growth.pairs import EXACT, NOT_SILENT, REFUSED, REMARKED, check

HEADS = (8, 4), (16, 8)


def drawn(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


VECTORS, SEQUENCES = drawn(4, 4), drawn(3, 5, 4)


class Residual(nn.Module):
    """``blocks`` of which each adds to the stream, merged as ``merge`` says, and a head behind ``last``."""

    def __init__(self, merge, depth: int, width: int, last=None, gate=None, norm=None) -> None:
        super().__init__()
        layers = (
            nn.Sequential(nn.Linear(width, 6), nn.GELU(), nn.Linear(6, width)) for _ in range(depth)
        )
        self.stem, self.blocks, self.head = (
            nn.Linear(4, width),
            nn.ModuleList(layers),
            nn.Linear(width, 3),
        )
        self.merge, self.last, self.width = merge, last, width
        self.gates = nn.ParameterList(gate(width) for _ in range(depth if gate else 0))
        self.norms = nn.ModuleList(norm(width) for _ in range(depth if norm else 0))

    def forward(self, x):
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            y = block(self.norms[i](x) if self.norms else x)
            y = self.gates[i] * y if self.gates else y
            x = self.merge(x, y, i, len(self.blocks), self.width)
        return self.head(self.last(x, len(self.blocks), self.width) if self.last else x)


def plain(x, y, i, depth, width):
    return x + y


def merged(function, **options):
    return lambda depth, width: Residual(function, depth, width, **options)


def ending(last):
    return lambda depth, width: Residual(plain, depth, width, last=last)


class Repeated(nn.Module):
    """One block, applied as many times as the net is deep."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.stem, self.block, self.head = (
            nn.Linear(4, width),
            nn.Linear(width, width),
            nn.Linear(width, 3),
        )
        self.depth = depth

    def forward(self, x):
        x = self.stem(x)
        for _ in range(self.depth):
            x = x + self.block(x).tanh()
        return self.head(x)


class Attention(nn.Module):
    """Heads of ``size`` coordinates; ``attend`` makes of queries, keys and values what is read."""

    def __init__(self, attend, width: int, size: int) -> None:
        super().__init__()
        self.stem, self.qkv, self.head = (
            nn.Linear(4, width),
            nn.ModuleList(nn.Linear(width, width) for _ in range(3)),
            nn.Linear(width, 3),
        )
        self.attend, self.size = attend, size

    def forward(self, x):
        x = self.stem(x)
        q, k, v = (p(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for p in self.qkv)
        return self.head(self.attend(q, k, v, self.size).transpose(1, 2).flatten(2))


def attention(attend):
    return lambda width, size: Attention(attend, width, size)


def weights(scores):
    """Attention by ``scores`` of queries, keys and the heads' size."""
    return attention(lambda q, k, v, d: scores(q, k, d).softmax(-1) @ v)


def unit(x):
    return normalize(x, dim=-1)


def over_mean(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def alibi(q, k, d):
    heads, steps = q.shape[1], torch.arange(q.shape[2])
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
    return q @ k.mT / d**0.5 - (steps[:, None] - steps).abs() * slopes[:, None, None]


def masked(q, k, d):
    """Slopes that grow with the head beside values that only mask."""
    steps = torch.arange(float(q.shape[2]))
    bias = (-d * steps).expand(q.shape[2], -1)
    future = steps[:, None] < steps
    return q @ k.mT / d**0.5 + bias.masked_fill(future, torch.finfo(torch.float32).min)


def rotary(q, k, d):
    angles = torch.arange(q.shape[2])[:, None] * 100.0 ** (-torch.arange(0, d, 2) / d)

    def turned(x):
        a, b = x[..., ::2], x[..., 1::2]
        pairs = a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()
        return torch.stack(pairs, -1).flatten(-2)

    return turned(q) @ turned(k).mT / 2


DEEPER, WIDER, BOTH = ((2, 8), (4, 8)), ((2, 8), (2, 12)), ((2, 8), (3, 16))
CASES = {
    # Residual branches: a new one adds nothing, so its factor is no matter; an old one's is taken up.
    "a branch by 1 / depth": (merged(lambda x, y, i, d, w: x + y / d), BOTH, VECTORS, EXACT),
    "a branch by 1 / sqrt(2 depth)": (merged(lambda x, y, i, d, w: x + y / (2 * d) ** 0.5), BOTH, VECTORS, EXACT),
    "a branch by 1 / width": (merged(lambda x, y, i, d, w: x + y / w), BOTH, VECTORS, EXACT),
    "a branch by .9 ** layer": (merged(lambda x, y, i, d, w: x + 0.9 ** (d - i) * y), DEEPER, VECTORS, EXACT),
    "a branch that survives at p": (merged(lambda x, y, i, d, w: x + (1 - 0.1 * i / d) * y), DEEPER, VECTORS, EXACT),
    "DeepNet": (merged(lambda x, y, i, d, w: (2 * d) ** 0.25 * x + y), DEEPER, VECTORS, REMARKED),
    "a sum over sqrt 2": (merged(lambda x, y, i, d, w: (x + y) / 2**0.5), DEEPER, VECTORS, REMARKED),
    "a mean with the stream": (merged(lambda x, y, i, d, w: (1 - 1 / d) * x + y / d), DEEPER, VECTORS, REMARKED),
    "a layer's number": (merged(lambda x, y, i, d, w: x + y + 0.01 * i), DEEPER, VECTORS, REMARKED),
    "the last branch otherwise": (
        merged(lambda x, y, i, d, w: x + (y.tanh() if i == d - 1 else y)),
        DEEPER,
        VECTORS,
        REFUSED,
    ),
    "ReZero": (merged(plain, gate=lambda w: nn.Parameter(torch.zeros(()))), BOTH, VECTORS, EXACT),
    "LayerScale": (merged(plain, gate=lambda w: nn.Parameter(1e-6 * torch.ones(w))), BOTH, VECTORS, EXACT),
    "LayerNorm before": (merged(plain, norm=nn.LayerNorm), BOTH, VECTORS, EXACT),
    "LayerNorm of other width": (merged(plain, norm=nn.LayerNorm), WIDER, VECTORS, REMARKED),
    "eps by width": (merged(plain, norm=lambda w: nn.LayerNorm(w, 1e-3 / w)), BOTH, VECTORS, REMARKED),
    "one block, more often": (Repeated, DEEPER, VECTORS, REFUSED),
    "1 / depth behind": (ending(lambda x, d, w: x / d), DEEPER, VECTORS, REMARKED),
    "1 / width behind": (ending(lambda x, d, w: x / w), WIDER, VECTORS, REMARKED),
    "power by depth": (ending(lambda x, d, w: x.abs() ** (1 / d)), DEEPER, VECTORS, REMARKED),
    "plus depth": (ending(lambda x, d, w: x + d), DEEPER, VECTORS, REMARKED),
    # Attention.
    "scores by sqrt of the head": (weights(lambda q, k, d: q @ k.mT / d**0.5), HEADS, SEQUENCES, EXACT),
    "scores by the head": (weights(lambda q, k, d: q @ k.mT / d), HEADS, SEQUENCES, EXACT),
    "queries by sqrt of the head": (weights(lambda q, k, d: q / d**0.5 @ k.mT), ((8, 4), (12, 6)), SEQUENCES, EXACT),
    "its scale by default": (attention(lambda q, k, v, d: dot_product(q, k, v)), HEADS, SEQUENCES, EXACT),
    "scale=1 / head": (attention(lambda q, k, v, d: dot_product(q, k, v, scale=1 / d)), HEADS, SEQUENCES, EXACT),
    "cosines by sqrt of the head": (weights(lambda q, k, d: unit(q) @ unit(k).mT * d**0.5), HEADS, SEQUENCES, REMARKED),
    "over the mean square": (weights(lambda q, k, d: over_mean(q) @ over_mean(k).mT), HEADS, SEQUENCES, REMARKED),
    "smaller heads": (weights(lambda q, k, d: q @ k.mT), ((8, 4), (8, 2)), SEQUENCES, REFUSED),
    "slopes by heads": (weights(alibi), ((8, 4), (16, 4)), SEQUENCES, EXACT),
    "slopes by the size, masked": (weights(masked), HEADS, SEQUENCES, REMARKED),
    "angles by the head": (weights(rotary), HEADS, SEQUENCES, EXACT),
    "slopes that are not among the new": (weights(alibi), ((8, 4), (12, 4)), SEQUENCES, REMARKED),
    "angles that are not among the new": (weights(rotary), ((8, 4), (12, 6)), SEQUENCES, REMARKED),
    "a softmax of features": (attention(lambda q, k, v, d: q.softmax(-1) @ (k.mT @ v)), HEADS, SEQUENCES, REMARKED),
    "keys by step": (attention(lambda q, k, v, d: q @ (k.softmax(-2).mT @ v)), HEADS, SEQUENCES, REFUSED),
}  # fmt: skip
QUICK = {"a branch by 1 / depth", "DeepNet", "the last branch otherwise", "ReZero", "eps by width",
         "one block, more often", "1 / width behind", "scale=1 / head", "slopes by heads",
         "slopes by the size, masked", "over the mean square", "angles by the head"}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CASES]
)
def test_a_constant_of_depth_or_heads_is_refused_remarked_or_changes_nothing(name):
    make, (old, new), x, expected = CASES[name]
    check(expected, make(*old), make(*new), x)


@pytest.mark.slow
@pytest.mark.parametrize("fill", ["net2wider", "vv-zz"])
@pytest.mark.parametrize("name", CASES)
def test_no_fill_is_silently_wrong(name, fill):
    make, (old, new), x, _ = CASES[name]
    check(NOT_SILENT, make(*old), make(*new), x, fill)
