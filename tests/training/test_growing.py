"""A model grows in the midst of its training: the same objects go on, with the same function and state."""

import copy

import pytest
import torch
from torch import nn

from phiopt.training import grow_in_place
from tests.cases import mlp, randn

X = randn(6, 4)


def step(model, optimizer, seed=0):
    optimizer.zero_grad()
    loss = model(randn(6, 4, seed=seed)).square().sum()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def test_the_same_objects_go_on_with_the_same_function_and_state():
    model, student = mlp(4, 3, 2, seed=1), mlp(4, 6, 2, seed=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    for seed in range(3):
        step(model, optimizer, seed)
    scheduler.step()
    old, expected = copy.deepcopy(model), model(X).detach()
    moments = {n: optimizer.state[p]["exp_avg"] for n, p in model.named_parameters()}
    growth = grow_in_place(model, student, optimizer)
    assert model[0].weight.shape == (6, 4)
    torch.testing.assert_close(model(X), expected)
    own = {n: optimizer.state[p]["exp_avg"] for n, p in model.named_parameters()}
    torch.testing.assert_close(growth.extract(own), moments)
    assert optimizer.param_groups[0]["lr"] == 0.005
    before, calls = model[0].weight.detach().clone(), len(seen)
    step(model, optimizer)
    assert not torch.equal(before[:3], model[0].weight[:3])
    assert len(seen) == calls + 1
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.0025
    assert old[0].weight.shape == (3, 4)
    assert student[0].weight.shape == (6, 4)


def test_rates_rise_after_growth_and_no_scheduler_sees_it():
    def trained(warmup):
        model = mlp(4, 3, 2, seed=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        grow_in_place(model, mlp(4, 5, 2, seed=2), optimizer, warmup=warmup)
        steps, rates = [], []
        for seed in range(5):
            before = model[2].bias.detach().clone()
            step(model, optimizer, seed)
            gradient = model[2].bias.grad
            steps.append(float(((before - model[2].bias.detach()) / gradient).mean()))
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        return steps, rates

    plain, rates = trained(0)
    warm, warm_rates = trained(3)
    assert warm_rates == pytest.approx(rates)
    assert warm == pytest.approx(
        [f * s for f, s in zip([0.25, 0.5, 0.75, 1, 1], plain, strict=True)]
    )


def test_modes_and_what_is_frozen_stay():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2))
    larger = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))
    model[0].requires_grad_(False)
    model[1].eval()
    grow_in_place(model, larger)
    assert model.training
    assert not model[1].training
    assert model[1].num_features == 5
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
    assert all(p.requires_grad for p in larger.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"student": nn.Linear(4, 2).double()},
            "student: is a Linear, must be of the model's class",
        ),
        ({"student": mlp(4, 2, 2)}, "student is smaller"),
        ({"warmup": -1}, "warmup: got -1"),
        ({"optimizer": 3}, "optimizer: got 3"),
        ({"fill": "zeros"}, "fill: got 'zeros'"),
    ],
)
def test_a_refused_growth_changes_nothing(options, message):
    model = mlp(4, 3, 2, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = model(X).detach()
    given = {"model": model, "student": mlp(4, 6, 2), "optimizer": optimizer}
    with pytest.raises((TypeError, ValueError), match=message):
        grow_in_place(**given | options)
    assert torch.equal(model(X), expected)
    assert optimizer.param_groups[0]["params"] == list(model.parameters())
