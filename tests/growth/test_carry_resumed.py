"""Carried state is where its parameter is after a save and a load, whatever grew, is frozen or tied."""

import copy

import pytest
import torch
from torch import nn

from phiopt.growth import GrowthMap, carry_optimizer, grow
from tests.growth.optimisers import OPTIMISERS


class Blocks(nn.Module):
    """Equal blocks before a head, so that the new ones come in the midst; ``tied``: one more name of the first."""

    def __init__(self, width, depth, tied=False):
        super().__init__()
        self.first = nn.Linear(3, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norm = nn.GroupNorm(1, width)
        self.head = nn.Linear(width, 2, bias=False)
        if tied:
            self.again = self.first

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x).tanh()
        return self.head(self.norm(x))


def every(module):
    return module.parameters()


def named(module):
    return module.named_parameters()


def prefixed(module):
    return [(f"model.{name}", p) for name, p in module.named_parameters()]


def by_rank(module):
    ps = list(module.parameters())
    decay, rest = ([p for p in ps if (p.ndim > 1) is rank] for rank in (True, False))
    return [{"params": rest, "weight_decay": 0.0}, {"params": decay}]


def head_first(module):
    rest = [p for name, p in module.named_parameters() if not name.startswith("head")]
    return [{"params": module.head.parameters(), "lr": 0.5}, {"params": rest}]


def named_groups(module):
    pairs = list(module.named_parameters())
    head = [pair for pair in pairs if pair[0].startswith("head")]
    return [{"params": head, "lr": 0.5}, {"params": [p for p in pairs if p not in head]}]


def trainable(module):
    return [p for p in module.parameters() if p.requires_grad]


def resumed(make, choose, width=4, depth=5, tied=False, frozen=""):
    """Names of the student's parameters, the optimiser carried, and the one that its state is loaded into."""
    torch.manual_seed(0)
    teacher, student, x = Blocks(3, 2, tied), Blocks(width, depth, tied), torch.randn(5, 3)
    for module in (teacher, student):
        for name, p in module.named_parameters():
            p.requires_grad_(not (frozen and name.startswith(frozen)))
    optimizer = make(choose(teacher))
    for _ in range(2):
        optimizer.zero_grad()
        teacher(x).square().sum().backward()
        optimizer.step()
    growth = GrowthMap.between(teacher, student, inputs=x)
    grown = grow(teacher, student, "zero-out", map=growth)
    carried = carry_optimizer(optimizer, growth, teacher, grown)
    loaded = make(choose(grown))
    loaded.load_state_dict(copy.deepcopy(carried.state_dict()))
    return grown, growth, carried, loaded


def check_resumed(grown, growth, carried, loaded):
    """Both hold the same at every parameter, and nothing at the new ones (but what an optimiser starts with)."""
    assert [group["params"] for group in carried.param_groups] == [
        group["params"] for group in loaded.param_groups
    ]
    for name, p in grown.named_parameters():
        ours, other = carried.state.get(p, {}), loaded.state.get(p, {})
        assert ours.keys() == other.keys()
        assert all(
            torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(other[key]))
            for key in ours
            if ours[key] is not None
        )
        assert name not in growth.fresh or not any(
            value.any() for value in ours.values() if isinstance(value, torch.Tensor)
        )
    for group, again in zip(carried.param_groups, loaded.param_groups, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {
            k: v for k, v in again.items() if k != "params"
        }


@pytest.mark.parametrize("choose", [every, named, prefixed, by_rank, head_first, named_groups])
@pytest.mark.parametrize("kind", [pytest.param("momentum", marks=pytest.mark.slow), "amsgrad"])
def test_state_lands_at_its_parameter_after_a_save_and_a_load(kind, choose):
    grown, growth, carried, _ = result = resumed(OPTIMISERS[kind], choose)
    assert growth.fresh
    assert any(carried.state[p] for p in grown.parameters())
    check_resumed(*result)
    names = [group.get("param_names") for group in carried.param_groups]
    fresh = OPTIMISERS[kind](choose(grown))
    assert names == [group.get("param_names") for group in fresh.param_groups]


@pytest.mark.parametrize(("width", "depth"), [(3, 4), (6, 2), (6, 7)])
def test_state_lands_at_its_parameter_whatever_grows(width, depth):
    check_resumed(*resumed(OPTIMISERS["adamw"], every, width, depth))


@pytest.mark.parametrize("choose", [every, trainable])
@pytest.mark.parametrize("frozen", ["first", "blocks", "head"])
def test_state_lands_at_its_parameter_beside_frozen_ones(frozen, choose):
    check_resumed(*resumed(OPTIMISERS["adam"], choose, frozen=frozen))


@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_state_lands_at_its_parameter_beside_tied_ones(kind):
    check_resumed(*resumed(OPTIMISERS[kind], every, tied=True))


def test_a_new_parameter_of_a_kind_that_another_optimiser_moves_stays_out():
    for rank in (True, False):

        def of_rank(module, rank=rank):
            return [p for p in module.parameters() if (p.ndim > 1) is rank]

        check_resumed(*resumed(OPTIMISERS["momentum"], of_rank))
