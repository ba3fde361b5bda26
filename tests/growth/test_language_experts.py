"""Experts and states of language models: picked, grouped and looped over; and written into zeros."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from phiopt.growth import GrowthMap, grow
from tests.growth.nets import randomised
from tests.growth.pairs import EXACT, check, said

SLOW = [pytest.mark.slow]
FILLS = ["net2wider", *(pytest.param(fill, marks=SLOW) for fill in ("zero-out", "vv-zz"))]
TOKENS = torch.randint(20, (3, 7), generator=torch.Generator().manual_seed(5))


class Experts(nn.Module):
    """A mixture of experts: each token takes the matrices of the two experts that a router ranks first."""

    def __init__(self, width, inner, experts=4):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, width), nn.Linear(width, 20)
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.zeros(experts, inner, width))
        self.down = nn.Parameter(torch.zeros(experts, width, inner))

    def forward(self, tokens):
        return self.head(self.added(self.embed(tokens).flatten(0, 1))).unflatten(0, tokens.shape)

    def added(self, x):
        y = self.mixed(x, *self.router(x).softmax(-1).topk(2, -1))
        return x + y.view(len(x), 2, -1).sum(1)

    def mixed(self, x, weights, chosen):
        each = x.repeat_interleave(2, 0).unsqueeze(-1)
        y = self.down[chosen.flatten()] @ F.silu(self.up[chosen.flatten()] @ each)
        return y.squeeze(-1) * weights.flatten()[:, None]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("sizes", [(8, 16), (16, 8), (16, 24)])
def test_experts_whose_matrices_are_picked_by_token_grow(sizes, fill):
    check(EXACT, Experts(8, 8), Experts(*sizes), TOKENS, fill)


def test_more_experts_are_said():
    check("remarked", Experts(8, 8), Experts(8, 8, 6), TOKENS)


class Grouped(Experts):
    """The tokens of each expert are multiplied as one group, by a kernel that knows float32 alone."""

    def mixed(self, x, weights, chosen):
        order = chosen.flatten().argsort(stable=True)
        counts = torch.histc(chosen.flatten().float(), len(self.up), 0, len(self.up) - 1)
        ends = counts.cumsum(0).to(torch.int32)
        y = F.silu(F.grouped_mm(x[order // 2], self.up.mT, offs=ends))
        y = F.grouped_mm(y, self.down.mT, offs=ends)
        return y[order.argsort()] * weights.flatten()[:, None]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("sizes", [(16, 16), (8, 24)])
def test_experts_whose_tokens_are_grouped_grow(sizes, fill):
    teacher, student = (randomised(Grouped(*n), i).eval() for i, n in enumerate(((8, 16), sizes)))
    growth = GrowthMap.between(teacher, student, inputs=TOKENS)
    assert not growth.inexact_reasons
    grown = grow(teacher, student, fill, map=growth, inputs=TOKENS)
    torch.testing.assert_close(grown(TOKENS), teacher(TOKENS), atol=1e-5, rtol=1e-4)


class Deep(Grouped):
    def __init__(self, depth):
        super().__init__(8, 16)
        self.layers = nn.ModuleList(Grouped(8, 16) for _ in range(depth))

    def added(self, x):
        for layer in self.layers:
            x = layer.added(x)
        return x


def test_a_new_layer_of_experts_whose_tokens_are_grouped_is_closed():
    teacher, student = (randomised(Deep(n), n).eval() for n in (1, 2))
    growth = GrowthMap.between(teacher, student, inputs=TOKENS)
    assert not growth.inexact_reasons
    grown = grow(teacher, student, "zero-out", map=growth, inputs=TOKENS)
    torch.testing.assert_close(grown(TOKENS), teacher(TOKENS), atol=1e-5, rtol=1e-4)


def test_more_experts_whose_tokens_are_grouped_are_said():
    models = Grouped(8, 16), Grouped(8, 16, 6)
    growth = GrowthMap.between(*models, inputs=TOKENS)
    assert any("topk over a widened axis" in reason for reason in growth.inexact_reasons)


class Looped(Experts):
    """A loop over the experts that some token chooses."""

    def mixed(self, x, weights, chosen):
        out = torch.zeros_like(x).repeat_interleave(2, 0)
        for i in chosen.flatten().bincount(minlength=len(self.up)).nonzero().flatten().tolist():
            rows = (chosen.flatten() == i).nonzero().flatten()
            out[rows] = F.silu(x[rows // 2] @ self.up[i].T) @ self.down[i].T
        return out * weights.flatten()[:, None]


def test_a_loop_over_the_chosen_experts_is_refused_with_what_settles_it():
    teacher, student = Looped(8, 8), Looped(8, 16)
    teacher.router.weight.data[:2] += 9  # so that not all experts are chosen
    answer = said(teacher, student, TOKENS)
    assert answer.startswith("refused")
    assert "by its values" in answer
    assert "experts_implementation=" in answer


class Recurrent(nn.Module):
    """A state that is kept beside the forward pass, and so is data that is written into zeros."""

    def __init__(self, width):
        super().__init__()
        self.embed, self.mix, self.head = (
            nn.Embedding(20, 8), nn.Linear(8, width), nn.Linear(width, 20),
        )  # fmt: skip

    def forward(self, tokens):
        x = self.mix(self.embed(tokens)).tanh()
        kept = torch.zeros(len(x), 4, x.shape[-1])
        kept = kept.roll(-1, 1)
        kept[:, -4:] = x[:, -4:]
        state, states = torch.zeros(x[:, 0].shape).to(x), []
        for i in range(x.shape[1]):
            state = 0.5 * state + x[:, i]
            states.append(state)
        return self.head(torch.stack(states, 1)), kept


@pytest.mark.parametrize("fill", FILLS)
def test_a_state_that_is_written_into_zeros_grows(fill):
    check(EXACT, Recurrent(8), Recurrent(12), TOKENS, fill)
