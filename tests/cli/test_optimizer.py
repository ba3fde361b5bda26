"""The state of an optimiser in a file, carried to the grown student."""

import pytest
import torch
from torch import nn

from phiopt import grow
from phiopt.cli.optimizer import carried_state
from phiopt.cli.sources import UsageError
from phiopt.growth import GrowthMap, carry_optimizer


def net(width):
    return nn.Sequential(nn.Linear(4, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 3))


def undecayed(name, p):
    return p.ndim <= 1


def groups(model, order, named):
    rows = [(n, p) if named else p for n, p in model.named_parameters() if undecayed(n, p)]
    rest = [(n, p) if named else p for n, p in model.named_parameters() if not undecayed(n, p)]
    parts = {
        "one": [{"params": list(model.named_parameters() if named else model.parameters())}],
        "decay last": [{"params": rows, "weight_decay": 0.0}, {"params": rest}],
        "decay first": [{"params": rest}, {"params": rows, "weight_decay": 0.0}],
    }
    return parts[order]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("order", ["one", "decay last", "decay first"])
def test_the_state_is_that_of_carry_optimizer(tmp_path, order, named):
    torch.manual_seed(0)
    teacher = net(6)
    student = net(12)
    optimizer = torch.optim.AdamW(groups(teacher, order, named), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        teacher(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    growth = GrowthMap.between(teacher, student)
    grown = grow(teacher, student, "zero", map=growth)
    state = carried_state(tmp_path / "optimizer.pt", growth, teacher, grown)
    expected = carry_optimizer(optimizer, growth, teacher, grown)

    fresh = torch.optim.AdamW(groups(grown, order, named), lr=0.01)
    fresh.load_state_dict(state)
    for p in grown.parameters():
        for key, value in expected.state[p].items():
            torch.testing.assert_close(fresh.state[p][key], value, rtol=0, atol=0)
    assert [g["weight_decay"] for g in fresh.param_groups] == [
        g["weight_decay"] for g in expected.param_groups
    ]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_order_that_nothing_settles_is_refused(tmp_path, momentum):
    teacher, student = net(6), net(12)
    parameters = list(teacher.parameters())
    optimizer = torch.optim.SGD(
        [{"params": parameters[:2]}, {"params": parameters[2:]}], lr=0.1, momentum=momentum
    )
    teacher(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    growth = GrowthMap.between(teacher, student)
    with pytest.raises(UsageError, match=r"2 groups of 2, 4 parameters, and no common order"):
        carried_state(tmp_path / "optimizer.pt", growth, teacher, student)


class Evil:
    def __reduce__(self):
        return (open, ("/nowhere/else", "w"))


@pytest.mark.parametrize("content", [{"state": Evil(), "param_groups": []}, {"a": 1}, [1]])
def test_other_files_are_refused_and_nothing_runs(tmp_path, content):
    torch.save(content, tmp_path / "optimizer.pt")
    teacher, student = net(6), net(12)
    growth = GrowthMap.between(teacher, student)
    with pytest.raises(UsageError, match=r"--optimizer: .* (cannot be read|must be a checkpoint)"):
        carried_state(tmp_path / "optimizer.pt", growth, teacher, student)
