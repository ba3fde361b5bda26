"""Rates by coordinate: the optimiser's own step, scaled, with any optimiser."""

import copy

import pytest
import torch

import phiopt
from phiopt.training import CoordinateRates
from tests.cases import mlp, randn

TEACHER, STUDENT = mlp(4, 3, 2, seed=1), mlp(4, 5, 2, seed=2)
GROWTH = phiopt.GrowthMap.between(TEACHER, STUDENT)
OPTIMISERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, weight_decay=0.1),
    "adam one by one": lambda ps: torch.optim.Adam(ps, lr=0.01, foreach=False),
    "rprop": lambda ps: torch.optim.Rprop(ps, lr=0.01),
    "adafactor": lambda ps: torch.optim.Adafactor(ps, lr=0.01),
}


def step(model, optimizer, seed=0):
    optimizer.zero_grad()
    model(randn(6, 4, seed=seed)).square().sum().backward()
    optimizer.step()


def moved(model, before):
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_a_step_is_the_optimisers_scaled_by_coordinate(kind):
    models = [copy.deepcopy(STUDENT) for _ in range(2)]
    plain, inner = (OPTIMISERS[kind](model.parameters()) for model in models)
    scaled = CoordinateRates(inner, models[1], GROWTH, carried=0.1, new=2.0)
    before = {name: p.detach().clone() for name, p in STUDENT.named_parameters()}
    step(models[0], plain)
    step(models[1], scaled)
    own, actual = (moved(model, before) for model in models)
    for name, mask in GROWTH.mask().items():
        torch.testing.assert_close(actual[name], own[name] * torch.where(mask, 0.1, 2.0).double())


def test_one_is_the_step_itself_and_zero_moves_nothing():
    models = [copy.deepcopy(STUDENT) for _ in range(3)]
    make = OPTIMISERS["adamw"]
    optimisers = [
        make(models[0].parameters()),
        CoordinateRates(make(models[1].parameters()), models[1], GROWTH),
        CoordinateRates(make(models[2].parameters()), models[2], GROWTH, carried=0),
    ]
    for model, optimizer in zip(models, optimisers, strict=True):
        for seed in range(3):
            step(model, optimizer, seed)
    parameters = [dict(model.named_parameters()) for model in models]
    for name, mask in GROWTH.mask().items():
        assert torch.equal(parameters[1][name], parameters[0][name])
        assert torch.equal(parameters[2][name][mask], STUDENT.get_parameter(name)[mask])
        assert mask.all() or not torch.equal(parameters[2][name], STUDENT.get_parameter(name))


def test_state_is_the_optimisers_and_a_training_goes_on_from_it():
    whole, first = copy.deepcopy(STUDENT), copy.deepcopy(STUDENT)
    make = OPTIMISERS["sgd"]
    optimizer = CoordinateRates(make(whole.parameters()), whole, GROWTH, carried=0.5)
    half = CoordinateRates(make(first.parameters()), first, GROWTH, carried=0.5)
    for seed in range(4):
        step(whole, optimizer, seed)
    for seed in range(2):
        step(first, half, seed)
    second = copy.deepcopy(first)
    again = CoordinateRates(make(second.parameters()), second, GROWTH, carried=0.5)
    again.load_state_dict(copy.deepcopy(half.state_dict()))
    for seed in (2, 3):
        step(second, again, seed)
    for p, q in zip(whole.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    make(second.parameters()).load_state_dict(again.state_dict())  # a plain optimiser takes it


def test_schedulers_closures_scalers_and_growth_take_it():
    model = copy.deepcopy(STUDENT)
    inner = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    optimizer = CoordinateRates(inner, model, GROWTH, carried=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    def closure():
        optimizer.zero_grad()
        loss = model(randn(6, 4)).square().sum()
        loss.backward()
        return loss.detach()

    first = float(optimizer.step(closure))
    scheduler.step()
    assert inner.param_groups[0]["lr"] == 0.05
    assert float(closure()) < first
    sgd = CoordinateRates(torch.optim.SGD(model.parameters(), lr=0.1), model, GROWTH, new=0.5)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(randn(6, 4)).square().sum()).backward()
    before = model[0].weight.detach().clone()
    scaler.step(sgd)
    assert not torch.equal(before, model[0].weight)
    larger = mlp(4, 7, 2, seed=3)
    more = phiopt.GrowthMap.between(model, larger)
    carried = phiopt.carry_optimizer(sgd, more, model, phiopt.grow(model, larger, map=more))
    assert isinstance(carried, torch.optim.SGD)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"carried": -1}, "carried: got -1"),
        ({"new": float("inf")}, "new: got inf"),
        ({"optimizer": torch.optim.SGD}, "optimizer: got the class SGD"),
        ({"optimizer": torch.optim.SGD(TEACHER.parameters())}, "is none of the model's"),
        (
            {"model": GROWTH, "map": STUDENT},
            r"must be an nn.Module: CoordinateRates\(optimizer, model",
        ),
    ],
)
def test_bad_arguments_are_named(options, message):
    given = {"optimizer": torch.optim.SGD(STUDENT.parameters()), "model": STUDENT, "map": GROWTH}
    with pytest.raises((TypeError, ValueError), match=message):
        CoordinateRates(**given | options)
