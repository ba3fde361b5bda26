"""The carried optimiser goes on where the teacher's stood."""

import copy

import pytest
import torch
from torch import nn

from phiopt.growth import GrowthMap, carry_optimizer, grow
from tests.growth.optimisers import OPTIMISERS


def net(hidden, classes, depth=1):
    layers = [nn.Conv2d(1, hidden, 3), nn.BatchNorm2d(hidden), nn.Flatten()]
    layers += [nn.Linear(4 * hidden, 4 * hidden) for _ in range(depth)]
    return nn.Sequential(*layers, nn.Linear(4 * hidden, classes)).double()


def trained(kind, steps=3):
    """A teacher, the optimiser that moved it, and a wider student."""
    torch.manual_seed(0)
    teacher, student = net(2, 3), net(4, 5)
    optimizer = OPTIMISERS[kind](teacher.parameters())
    for _ in range(steps):
        step(optimizer, dict(teacher.named_parameters()), gradients(teacher))
    return teacher, student, optimizer


def gradients(module):
    return {name: torch.randn_like(p) for name, p in module.named_parameters()}


def step(optimizer, params, grads):
    for name, p in params.items():
        p.grad = grads[name].clone()
    optimizer.step()


@pytest.fixture(autouse=True)
def _forked():
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_old_coordinates_move_as_the_teachers_would(kind):
    teacher, student, optimizer = trained(kind)
    growth = GrowthMap.between(teacher, student)
    grown = grow(teacher, student, "default", map=growth)
    carried = carry_optimizer(optimizer, growth, teacher, grown)
    assert type(carried) is type(optimizer)
    for _ in range(2):
        grads, new = gradients(teacher), gradients(grown)
        step(optimizer, dict(teacher.named_parameters()), grads)
        step(carried, dict(grown.named_parameters()), growth.embed(grads, into=new))
        there = growth.extract(dict(grown.named_parameters()))
        for name, p in teacher.named_parameters():
            torch.testing.assert_close(there[name], p, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["momentum", "adam", "rmsprop"])
def test_new_coordinates_start_fresh_and_numbers_are_carried(kind):
    teacher, student, optimizer = trained(kind)
    growth = GrowthMap.between(teacher, student)
    grown = grow(teacher, student, map=growth)
    carried, mask = carry_optimizer(optimizer, growth, teacher, grown), growth.mask()
    names = dict(teacher.named_parameters())
    for name, p in grown.named_parameters():
        for key, value in carried.state[p].items():
            old = optimizer.state[names[name]][key]
            if value.ndim:
                assert not value[~mask[name]].any()
                assert torch.equal(growth.extract({name: value})[name], old)
            else:
                assert torch.equal(value, old)
                assert value.data_ptr() != old.data_ptr()


def test_a_fresh_coordinate_of_adagrad_and_rprop_starts_where_theirs_do():
    for kind, key, start in (("adagrad", "sum", 0.1), ("rprop", "step_size", 0.01)):
        teacher, student, optimizer = trained(kind)
        growth = GrowthMap.between(teacher, student)
        grown = grow(teacher, student, map=growth)
        carried, mask = carry_optimizer(optimizer, growth, teacher, grown), growth.mask()
        value = carried.state[grown[0].weight][key]
        torch.testing.assert_close(value[~mask["0.weight"]], torch.full((18,), start).double())


def test_groups_and_their_options_are_kept_and_new_layers_join_their_kind():
    torch.manual_seed(0)
    teacher, student = net(2, 3), net(2, 3, depth=2)
    decay = [p for p in teacher.parameters() if p.ndim > 1]
    rest = [p for p in teacher.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": rest, "weight_decay": 0.0, "lr": 0.5}, {"params": decay}], lr=0.01
    )
    step(optimizer, dict(teacher.named_parameters()), gradients(teacher))
    growth = GrowthMap.between(teacher, student)
    grown = grow(teacher, student, map=growth)
    carried = carry_optimizer(optimizer, growth, teacher, grown)
    options = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    assert [{k: v for k, v in g.items() if k != "params"} for g in carried.param_groups] == options
    assert all(p.ndim == 1 for p in carried.param_groups[0]["params"])
    assert all(p.ndim > 1 for p in carried.param_groups[1]["params"])
    kept = {p for g in carried.param_groups for p in g["params"]}
    assert kept == set(grown.parameters())
    assert growth.fresh
    owners = dict(grown.named_parameters())
    assert all(not carried.state.get(owners[name]) for name in growth.fresh)


def test_two_optimisers_of_one_teacher_divide_the_student_alike():
    teacher, student, _ = trained("sgd")
    growth = GrowthMap.between(teacher, student)
    grown = grow(teacher, student, map=growth)
    for rank in (True, False):
        results = [p for p in teacher.parameters() if (p.ndim > 1) is rank]
        carried = carry_optimizer(torch.optim.SGD(results, lr=0.1), growth, teacher, grown)
        wanted = [p for p in grown.parameters() if (p.ndim > 1) is rank]
        assert set(carried.param_groups[0]["params"]) == set(wanted)


def test_frozen_parameters_stay_out():
    teacher, student, _ = trained("sgd")
    optimizer = torch.optim.SGD(teacher[4].parameters(), lr=0.1)
    growth = GrowthMap.between(teacher, student)
    student.requires_grad_(False)
    student[4].requires_grad_(True)
    grown = grow(teacher, student, map=growth)
    carried = carry_optimizer(optimizer, growth, teacher, grown)
    assert set(carried.param_groups[0]["params"]) == set(grown[4].parameters())


def test_the_teachers_optimiser_is_not_modified_and_shares_nothing():
    teacher, student, optimizer = trained("adam")
    before = copy.deepcopy(optimizer.state_dict())
    growth = GrowthMap.between(teacher, student)
    grown = grow(teacher, student, map=growth)
    carried = carry_optimizer(optimizer, growth, teacher, grown)
    step(carried, dict(grown.named_parameters()), gradients(grown))
    carried.param_groups[0]["lr"] = 7.0
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for index, state in before["state"].items():
        assert all(torch.equal(after["state"][index][key], value) for key, value in state.items())


def test_state_of_another_shape_is_refused_by_name():
    teacher, student, _ = trained("sgd")
    growth = GrowthMap.between(teacher, student)
    optimizer = torch.optim.Adafactor(teacher.parameters())
    step(optimizer, dict(teacher.named_parameters()), gradients(teacher))
    with pytest.raises(TypeError, match=r"Adafactor keeps 'row_var' .* for 0\.weight"):
        carry_optimizer(optimizer, growth, teacher, student)
    lbfgs = torch.optim.LBFGS(teacher.parameters())
    lbfgs.step(lambda: sum(p.square().sum() for p in teacher.parameters()))
    with pytest.raises(TypeError, match="LBFGS keeps"):
        carry_optimizer(lbfgs, growth, teacher, student)


def test_bad_arguments_are_named():
    teacher, student, optimizer = trained("adam")
    growth = GrowthMap.between(teacher, student)
    with pytest.raises(ValueError, match="parameter 0 of group 0"):
        carry_optimizer(optimizer, growth, student, student)
    with pytest.raises(ValueError, match=r"student: must have a parameter 0\.weight"):
        carry_optimizer(optimizer, growth, teacher, teacher)
    with pytest.raises(TypeError, match="optimizer: got Linear"):
        carry_optimizer(nn.Linear(1, 1), growth, teacher, student)


class Around(torch.optim.Optimizer):
    """An optimiser around another one, as that of accelerate."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    @property
    def state(self):
        return self.optimizer.state


def test_an_optimiser_around_another_stands_for_it():
    teacher, student, optimizer = trained("adam")
    growth = GrowthMap.between(teacher, student)
    grown = grow(teacher, student, "zero", map=growth)
    direct, around = (
        carry_optimizer(o, growth, teacher, grown) for o in (optimizer, Around(Around(optimizer)))
    )
    assert type(around) is torch.optim.Adam
    for p, state in direct.state.items():
        assert torch.equal(around.state[p]["exp_avg"], state["exp_avg"])
