"""What language models do, each pattern in a few lines: caches, new layers, scaled norms and tied embeddings."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from phiopt.growth import GrowthMap, compare, grow
from tests.growth.nets import randomised
from tests.growth.pairs import EXACT, check, said

SLOW = [pytest.mark.slow]
FILLS = ["net2wider", *(pytest.param(fill, marks=SLOW) for fill in ("zero-out", "vv-zz"))]
TOKENS = torch.randint(20, (3, 7), generator=torch.Generator().manual_seed(5))


class Cached(nn.Module):
    """Attention whose keys are joined to a cache. ``past``: what the cache holds at first."""

    def __init__(self, width, past):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(width, 20)
        self.query, self.key, self.value = (nn.Linear(8, width) for _ in range(3))
        self.past = past

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = (self.split(part(x)) for part in (self.query, self.key, self.value))
        if self.past is not None:
            k, v = (torch.cat([*self.past(y), y], dim=-2) for y in (k, v))
        return self.head(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def split(self, x):
        return x.unflatten(-1, (-1, 4)).transpose(1, 2)


def nothing(y):
    return [torch.tensor([], dtype=y.dtype)]


def twice_nothing(y):
    return [torch.tensor([], dtype=y.dtype), y[..., :0, :]]


def a_row(y):
    return [torch.tensor([], dtype=y.dtype), torch.ones_like(y[..., :1, :])]


@pytest.mark.parametrize("past", [nothing, twice_nothing, a_row, None])
@pytest.mark.parametrize("fill", FILLS)
def test_keys_are_joined_to_an_empty_cache(past, fill):
    check(EXACT, Cached(8, past), Cached(16, past), TOKENS, fill)


def test_a_cache_may_exist_in_one_of_the_models():
    check(EXACT, Cached(8, None), Cached(16, nothing), TOKENS)
    check(EXACT, Cached(8, nothing), Cached(16, None), TOKENS)


class Layers(nn.Module):
    """Layers of ``make`` on a stream of ``width``, between an embedding and a head."""

    def __init__(self, make, depth, width=8):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, width), nn.Linear(width, 20)
        self.layers = nn.ModuleList(make(width) for _ in range(depth))

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Two(nn.Module):
    """Two branches on one stream; cases say how they are added."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)
        self.scale = nn.Parameter(torch.zeros(width))


class Parallel(Two):
    def forward(self, x):
        return self.a(x).tanh() @ self.b.weight + self.b(x).relu() + x


class ShiftedNorm(Two):
    """A norm behind the branch, whose weight is 1 plus a parameter."""

    def forward(self, x):
        y = self.a(x).tanh()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return x + y * (1.0 + self.scale)


class Gated(Two):
    def forward(self, x):
        return x + self.a(x).sigmoid() * self.b(x)


class Halved(Two):
    """A branch that is scaled by an affine function of a parameter."""

    def forward(self, x):
        return x + (2 * self.scale - 3) / 4 * self.a(x).exp()


class Doubled(Two):
    def forward(self, x):
        return x + torch.cat(self.a(x).chunk(2, -1)[::-1], -1) + F.gelu(self.b(x))


class Turned(Two):
    """A sum within the branch, of two terms that are made of the same units."""

    def forward(self, x):
        y = self.a(x)
        y = y * 0.8 + torch.cat([-y[..., 4:], y[..., :4]], -1) * 0.6
        return x + self.b(y.tanh())


@pytest.mark.parametrize("layer", [Parallel, ShiftedNorm, Gated, Halved, Doubled, Turned])
@pytest.mark.parametrize("width", [8, 16])
def test_new_layers_are_closed_at_their_last_parameters(layer, width):
    wider = 8 if layer is Turned else width  # its halves do not grow
    check(EXACT, Layers(layer, 2), Layers(layer, 4, wider), TOKENS)


class PostNorm(nn.Module):
    """A layer whose sums are normalised, as BERT's are."""

    def __init__(self, width):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x):
        for part, norm in zip(self.parts, self.norms, strict=True):
            x = norm(x + part(x).tanh())
        return x


def nearby(spread):
    """A teacher and a deeper student of post-norm layers, whose norms differ by ``spread`` between units."""
    models = [randomised(Layers(PostNorm, depth, 32).double(), depth).eval() for depth in (2, 3)]
    source = torch.Generator().manual_seed(7)
    for name, value in models[0].named_parameters():
        if "norms" in name:
            drawn = torch.randn(value.shape, generator=source, dtype=value.dtype)
            value.data = (1.5 if name.endswith("weight") else 0.5) + spread * drawn
    return models


@pytest.mark.parametrize("fill", FILLS)
def test_a_new_post_norm_layer_starts_nearer_to_the_identity_than_other_starts(fill):
    teacher, student = nearby(0.3)
    growth = GrowthMap.between(teacher, student, inputs=TOKENS)
    assert all("normalises the stream itself" in reason for reason in growth.inexact_reasons)
    grown = grow(teacher, student, fill, map=growth)
    start, new, last = grown.state_dict(), "layers.2.", "layers.1."
    own = {name: value for name, value in start.items() if name.startswith(new)}
    others = {
        "zero branches": {n: torch.ones_like(x) * n.endswith("weight") if "norms" in n else x for n, x in own.items()},
        "random": {n: student.state_dict()[n] for n in own},
        "its neighbour": {n: start[n.replace(new, last)] for n in own},
    }  # fmt: skip
    error = compare(teacher, grown, growth, inputs=TOKENS).max_abs
    for name, values in others.items():
        grown.load_state_dict(start | values)
        assert error < 0.5 * compare(teacher, grown, growth, inputs=TOKENS).max_abs, name


def test_a_new_post_norm_layer_is_the_identity_behind_a_norm_that_treats_all_units_alike(tmp_path):
    teacher, student = nearby(0.0)
    growth = GrowthMap.between(teacher, student, inputs=TOKENS)
    grown = grow(teacher, student, "zero-out", map=growth)
    assert compare(teacher, grown, growth, inputs=TOKENS).max_rel < 1e-4
    growth.save(tmp_path / "map")
    assert GrowthMap.load(tmp_path / "map", teacher, student).inserted == growth.inserted


class Softmax(Two):
    def forward(self, x):
        return x + self.a(x).softmax(-1)


def test_a_branch_that_no_parameter_closes_is_refused():
    answer = said(Layers(Softmax, 2), Layers(Softmax, 3), TOKENS)
    assert answer.startswith("refused")
    assert "no parameter that could silence" in answer


class Again(nn.Module):
    """A layer that is used once, or in a second branch too."""

    def __init__(self, twice):
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.twice = twice

    def forward(self, tokens):
        x = self.layer(self.embed(tokens)).tanh()
        return self.head(x + self.layer(x) if self.twice else x)


def test_a_layer_that_is_used_more_often_does_not_start_at_zero():
    answer = said(Again(False), Again(True), TOKENS)
    assert answer.startswith("refused")
    assert "uses it in several layers" in answer


class Scaled(nn.Module):
    """An embedding times a function of its width, a norm, and a head that may be the embedding again.

    Args:
        width: Of the stream.
        tied: Whether the head is the embedding.
        norm: ``"layer"``, ``"rms"`` or ``"shifted"``, whose weight is 1 plus a parameter.
        power: The factors are the width to this power at the embedding, and to its negative at the head.
    """

    def __init__(self, width, tied=True, norm="rms", power=0.5):
        super().__init__()
        self.embed, self.mlp = nn.Embedding(20, width), nn.Linear(width, width)
        self.head = None if tied else nn.Linear(width, 20, bias=False)
        self.norm = nn.LayerNorm(width) if norm == "layer" else None
        self.scale = nn.Parameter(torch.zeros(width)) if norm != "layer" else None
        self.shift, self.factor = float(norm == "shifted"), width**power

    def forward(self, tokens):
        x = self.embed(tokens) * self.factor
        x = self.normed(x + self.mlp(x).tanh()) / self.factor
        return F.linear(x, self.embed.weight if self.head is None else self.head.weight)

    def normed(self, x):
        if self.scale is None:
            return self.norm(x)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-12)
        return x * (self.shift + self.scale) if self.shift else self.scale * x


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("norm", ["layer", "rms", "shifted"])
@pytest.mark.parametrize("tied", [True, False])
def test_factors_of_the_width_are_taken_up_beside_a_tied_embedding(tied, norm, fill):
    check(EXACT, Scaled(8, tied, norm), Scaled(16, tied, norm), TOKENS, fill)


class Unnormed(Scaled):
    def normed(self, x):
        return x.tanh()


def test_a_factor_at_a_tied_embedding_that_nothing_undoes_is_said():
    check("remarked", Unnormed(8), Unnormed(16), TOKENS)


class Peeking(Layers):
    """A model that looks at one coordinate of its units, for the shape alone."""

    def forward(self, tokens):
        x = self.embed(tokens)
        positions = torch.arange(x[..., -1].shape[1])
        return self.head(F.layer_norm(x + positions[:, None] / 9, x.shape[-1:]))


def test_a_coordinate_of_which_the_shape_alone_is_read_is_none():
    check(EXACT, Peeking(Gated, 0), Peeking(Gated, 0, 16), TOKENS)


class Pooled(Layers):
    """Every second position is joined to the one before. The units are an axis of the image that is pooled."""

    def forward(self, tokens):
        x = self.layers[0](self.embed(tokens))[:, None]
        x = F.max_pool2d(x, (2, 1), stride=(2, 1), ceil_mode=True)
        return self.head(F.avg_pool2d(x, (2, 1), stride=(2, 1), ceil_mode=True)[:, 0].tanh())


@pytest.mark.parametrize("fill", FILLS)
def test_units_beside_pooled_positions_grow(fill):
    check(EXACT, Pooled(Gated, 1), Pooled(Gated, 1, 12), TOKENS, fill)


class Windows(Layers):
    """Sums over windows of positions that overlap, as those of local attention do."""

    def forward(self, tokens):
        x = self.layers[0](self.embed(tokens)).contiguous()
        batch, steps, width = x.shape
        x = x.as_strided((batch, steps - 2, 3, width), (steps * width, width, width, 1))
        return self.head(x.sum(2).tanh())


@pytest.mark.parametrize("fill", FILLS)
def test_units_beside_windows_that_overlap_grow(fill):
    check(EXACT, Windows(Gated, 1), Windows(Gated, 1, 12), TOKENS, fill)
