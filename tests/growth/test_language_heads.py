"""Heads of language models: rotary angles, slopes, shared keys, packed matrices."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from phiopt.growth import GrowthMap, grow
from tests.growth.pairs import EXACT, check, said

SLOW = [pytest.mark.slow]
FILLS = ["net2wider", *(pytest.param(fill, marks=SLOW) for fill in ("zero-out", "vv-zz"))]
TOKENS = torch.randint(20, (3, 7), generator=torch.Generator().manual_seed(5))


class Rotary(nn.Module):
    """Attention with rotary angles.

    Args:
        heads: Of the queries.
        shared: Of keys and values.
        size: Of a head.
        layout: ``"halves"``, ``"pairs"`` (neighbours turn together), or ``"part"`` (half of the head turns).
        buffer: Whether the frequencies are a buffer that no file holds, and not computed in the forward pass.
    """

    def __init__(self, heads, size, shared=None, layout="halves", buffer=True):
        super().__init__()
        self.size, self.layout, self.shared = size, layout, shared or heads
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(heads * size, 20)
        self.query = nn.Linear(8, heads * size)
        self.key, self.value = (nn.Linear(8, self.shared * size) for _ in range(2))
        self.turned = size // 2 if layout == "part" else size
        if buffer:
            self.register_buffer("frequencies", self.rates(), persistent=False)
        self.buffer = buffer

    def rates(self):
        return 100.0 ** (-torch.arange(0, self.turned, 2) / self.turned)

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = (
            part(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        k, v = self.turn(k), v
        scores = F.scaled_dot_product_attention(self.turn(q), self.each(k), self.each(v))
        return self.head(scores.transpose(1, 2).flatten(2))

    def each(self, x):
        """Every head of keys and values, for the queries that share it."""
        times = self.query.out_features // self.key.out_features
        if times == 1:
            return x
        return x[:, :, None].expand(-1, -1, times, -1, -1).reshape(len(x), -1, *x.shape[2:])

    def turn(self, x):
        rates = self.frequencies if self.buffer else self.rates().to(x)
        angles = torch.outer(torch.arange(x.shape[-2]), rates)
        if self.layout == "pairs":
            angles = angles.repeat_interleave(2, -1)
            turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
            return x * angles.cos() + turned * angles.sin()
        angles = torch.cat([angles, angles], -1)
        x, rest = x[..., : self.turned], x[..., self.turned :]
        a, b = x.chunk(2, -1)
        x = x * angles.cos() + torch.cat([-b, a], -1) * angles.sin()
        return torch.cat([x, rest], -1) if rest.shape[-1] else x


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("buffer", [True, pytest.param(False, marks=SLOW)])
@pytest.mark.parametrize("layout", ["halves", "pairs", "part"])
def test_rotary_heads_of_a_multiple_of_the_width_keep_the_function(layout, buffer, fill):
    heads = [Rotary(2, size, layout=layout, buffer=buffer) for size in (8, 16)]
    check(EXACT, *heads, TOKENS, fill)


def test_the_teachers_frequencies_sit_where_the_student_has_them():
    growth = GrowthMap.between(Rotary(1, 8), Rotary(1, 16), inputs=TOKENS)
    rows = growth.placements["key.weight"].index_maps[0].tolist()
    assert rows == [0, 2, 4, 6, 8, 10, 12, 14]
    assert "frequencies" not in growth.placements
    grown = grow(Rotary(1, 8), Rotary(1, 16), "zero-out", map=growth)
    assert torch.equal(grown.frequencies, Rotary(1, 16).frequencies)  # as a loaded student has


@pytest.mark.parametrize("sizes", [(8, 12), (4, 6)])
def test_rotary_heads_whose_frequencies_are_others_are_said(sizes):
    check("remarked", *(Rotary(2, size) for size in sizes), TOKENS)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((4, 2), (4, 4)),  # every query gets keys of its own
        ((4, 1), (4, 2)),
        ((4, 4), (8, 4)),
        ((4, 2), (8, 2)),
        ((4, 2), (8, 4)),
        ((4, 1), (8, 8)),
        ((6, 1), (6, 2)),
    ],
)
def test_heads_of_keys_and_values_that_fewer_queries_share(old, new, fill):
    teacher, student = (Rotary(heads, 4, shared) for heads, shared in (old, new))
    check(EXACT, teacher, student, TOKENS, fill)


@pytest.mark.parametrize(("old", "new"), [((6, 2), (6, 3)), ((6, 1), (8, 4))])
def test_heads_that_cannot_be_shared_so_are_refused(old, new):
    teacher, student = (Rotary(heads, 4, shared) for heads, shared in (old, new))
    answer = said(teacher, student, TOKENS)
    assert answer.startswith("refused")


class Slopes(nn.Module):
    """Attention with a bias that is linear in the distance, by a slope for each head."""

    def __init__(self, heads, scale=True):
        super().__init__()
        self.heads = heads
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(4 * heads, 20)
        self.parts = nn.ModuleList(nn.Linear(8, 4 * heads) for _ in range(3))

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = (
            part(x).unflatten(-1, (-1, 4)).transpose(1, 2).flatten(0, 1) for part in self.parts
        )
        slopes = 2.0 ** (-8 * torch.arange(1, self.heads + 1) / self.heads)
        distance = torch.arange(tokens.shape[1]).double()
        bias = (slopes[:, None, None] * distance).repeat(len(tokens), 1, 1)
        scores = torch.baddbmm(bias, q, k.mT, alpha=1 / self.heads).softmax(-1)
        return self.head((scores @ v).unflatten(0, (len(tokens), -1)).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("fill", FILLS)
def test_heads_sit_where_their_slopes_are(fill):
    check(EXACT, Slopes(2), Slopes(4), TOKENS, fill)


class Packed(nn.Module):
    """Queries, keys and values in one layer, head by head or one after another."""

    def __init__(self, heads, size, split):
        super().__init__()
        self.size, self.split = size, split
        self.embed, self.pack, self.head = (
            nn.Embedding(20, 8),
            nn.Linear(8, 3 * heads * size),
            nn.Linear(heads * size, 20),
        )

    def forward(self, tokens):
        x = self.pack(self.embed(tokens))
        if self.split == "chunk":
            q, k, v = x.unflatten(-1, (-1, 3 * self.size)).transpose(1, 2).chunk(3, -1)
        elif self.split == "select":
            x = x.unflatten(-1, (-1, 3, self.size)).transpose(1, 2)
            q, k, v = (x[..., i, :] for i in range(3))
        else:
            q, k, v = (y.transpose(1, 2) for y in x.unflatten(-1, (3, -1, self.size)).unbind(2))
        y = (q @ k.mT * self.size**-0.5).softmax(-1) @ v
        return self.head(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("split", ["chunk", "select", "unbind"])
@pytest.mark.parametrize("size", [(2, 8), (4, 4), (4, 8)])
def test_packed_heads_take_up_the_factor_of_their_width(split, size, fill):
    check(EXACT, Packed(2, 4, split), Packed(*size, split), TOKENS, fill)


class Disentangled(nn.Module):
    """Attention to positions, whose keys are made of parameters alone."""

    def __init__(self, heads, size=4):
        super().__init__()
        self.heads, width = heads, heads * size
        self.embed, self.place = nn.Embedding(20, 8), nn.Embedding(7, 8)
        self.query, self.key, self.value = (nn.Linear(8, width) for _ in range(3))
        self.head = nn.Linear(width, 20)

    def forward(self, tokens):
        x = self.embed(tokens)
        q, v = self.split(self.query(x)), self.split(self.value(x))
        k = self.split(self.key(self.place.weight)[None]).repeat(len(x), 1, 1)
        y = (q @ k.mT + self.more(q)).softmax(-1) @ v
        return self.head(y.unflatten(0, (len(x), -1)).transpose(1, 2).flatten(2))

    def more(self, q):
        return 0.0

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2).flatten(0, 1)


class Segmented(Disentangled):
    """The same queries also meet a vector of each head for each position, which is a parameter."""

    def __init__(self, heads, size=4):
        super().__init__(heads, size)
        self.kinds = nn.Parameter(torch.zeros(heads, size, 7))

    def more(self, q):
        return (q.unflatten(0, (-1, self.heads)) @ self.kinds).flatten(0, 1)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("size", [(4, 4), (2, 8)])
@pytest.mark.parametrize("kind", [Disentangled, Segmented])
def test_heads_that_are_made_of_parameters_alone_grow(kind, size, fill):
    check(EXACT, kind(2), kind(*size), TOKENS, fill)
