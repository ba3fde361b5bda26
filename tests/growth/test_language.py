"""What language models do, each pattern in a few lines: caches, shared keys and values, rotary angles, scaled norms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.growth.pairs import EXACT, said

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
@pytest.mark.parametrize("fill", ["zero-out", "net2wider", "vv-zz"])
def test_keys_are_joined_to_an_empty_cache(past, fill):
    assert said(Cached(8, past), Cached(16, past), TOKENS, fill) == EXACT


def test_a_cache_may_exist_in_one_of_the_models():
    assert said(Cached(8, None), Cached(16, nothing), TOKENS) == EXACT
    assert said(Cached(8, nothing), Cached(16, None), TOKENS) == EXACT
