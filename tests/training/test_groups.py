"""Parameter groups: every parameter once, at the rate of its layer and of what it holds."""

import pytest
import torch
from torch import nn

import phiopt
from phiopt.training.groups import layers_of
from tests.cases import mlp


class Blocks(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, width))
        self.embed = nn.Linear(3, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norm = nn.GroupNorm(1, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = self.embed(x) + self.token
        for block in self.blocks:
            x = x + block(x).tanh()
        return self.head(self.norm(x))


def grown(depth=(2, 3)):
    teacher, student = Blocks(4, depth[0]), Blocks(4, depth[1])
    growth = phiopt.GrowthMap.between(teacher, student, inputs=torch.ones(2, 3))
    return phiopt.grow(teacher, student, "zero-out", map=growth), growth


def rates(model, groups):
    names = {p: name for name, p in model.named_parameters()}
    return {names[p]: group["lr"] for group in groups for p in group["params"]}


def test_rates_fall_by_layer_and_every_parameter_is_in_one_group():
    model, growth = grown()
    groups = phiopt.param_groups(model, growth, 0.1, depth_decay=0.5)
    actual = rates(model, groups)
    assert list(actual) != []
    assert sum(len(group["params"]) for group in groups) == len(actual)
    assert actual.keys() == dict(model.named_parameters()).keys()
    for name, layer in {
        "token": 0,
        "embed.bias": 0,
        "blocks.0.weight": 1,
        "blocks.2.bias": 3,
    }.items():
        assert actual[name] == pytest.approx(0.1 * 0.5 ** (4 - layer))
    assert actual["norm.weight"] == actual["head.weight"] == pytest.approx(0.1)
    torch.optim.AdamW(groups).step()


def test_new_blocks_have_the_rate_of_new_tensors():
    model, growth = grown()
    new = {name.rpartition(".")[0] for name in growth.fresh}
    actual = rates(model, phiopt.param_groups(model, growth, 1.0, carried=0.1, new=2.0))
    assert new
    for name, rate in actual.items():
        assert rate == pytest.approx(2.0 if name.rpartition(".")[0] in new else 0.1)


def test_a_tensor_counts_as_carried_from_half_of_its_coordinates():
    teacher, student = mlp(4, 4, 3), mlp(4, 8, 3)
    growth = phiopt.GrowthMap.between(teacher, student)
    actual = rates(student, phiopt.param_groups(student, growth, 1.0, new=3.0))
    assert set(actual.values()) == {1.0}
    student = mlp(4, 9, 3)
    growth = phiopt.GrowthMap.between(teacher, student)
    actual = rates(student, phiopt.param_groups(student, growth, 1.0, new=3.0))
    assert actual == {"0.weight": 3.0, "0.bias": 3.0, "2.weight": 3.0, "2.bias": 1.0}


def test_what_is_frozen_is_left_out():
    model, growth = grown()
    left = rates(model, phiopt.param_groups(model, growth, 1.0, frozen="carried"))
    assert left.keys() == growth.fresh.keys()
    left = rates(model, phiopt.param_groups(model, growth, 1.0, frozen=("blocks.0", "*.bias")))
    assert not [n for n in left if n.endswith("bias") or n.startswith("blocks.0")]
    model.embed.requires_grad_(False)
    assert "embed.weight" not in rates(model, phiopt.param_groups(model, growth, 1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0}, "lr: got"),
        ({"carried": -1}, "carried: got"),
        ({"new": float("nan")}, "new: got"),
        ({"depth_decay": 1.5}, "depth_decay: got"),
        ({"depth_decay": 0}, "depth_decay: got 0, must be positive"),
        ({"frozen": "blok.0"}, "frozen: 'blok.0' fits no parameter"),
        ({"frozen": ("*",)}, "which leaves no parameter"),
        ({"model": Blocks(5, 3)}, "map: the model's token has shape"),
        ({"model": nn.DataParallel(Blocks(4, 3))}, "not a wrapper"),
        ({"map": {}}, "map: got {}, must be a GrowthMap"),
    ],
)
def test_bad_arguments_are_named(options, message):
    model, growth = grown()
    with pytest.raises((TypeError, ValueError), match=message):
        phiopt.param_groups(**{"model": model, "map": growth, "lr": 1.0} | options)


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (["weight", "bias"], [0, 0]),
        (["net.conv.weight", "net.conv.bias", "net.fc.weight"], [0, 0, 1]),
        (["conv1.weight", "layer1.0.a.weight", "layer1.1.b.bias", "layer2.0.a.weight", "fc.bias"], [0, 1, 2, 3, 4]),
        (["bert.embed.w", "bert.norm.w", "bert.layer.0.a.w", "bert.layer.0.b.w", "head.w"], [0, 0, 1, 1, 2]),
        (["a.0.w", "mid.w", "b.0.w", "b.0.experts.1.w"], [0, 1, 2, 2]),
    ],
)  # fmt: skip
def test_layers_are_counted_in_their_order(names, layers):
    assert [number for number, _ in layers_of(names).values()] == layers
