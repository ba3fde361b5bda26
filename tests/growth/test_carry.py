"""The carried optimiser goes on where the teacher's stood."""

import copy

import pytest
import torch
from torch import nn

from phiopt.growth import GrowthMap, carry_optimizer, grow

OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95)),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


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
    held = {p for g in carried.param_groups for p in g["params"]}
    assert held == set(grown.parameters())
    assert growth.fresh
    owners = dict(grown.named_parameters())
    assert all(not carried.state.get(owners[name]) for name in growth.fresh)


def test_two_optimisers_of_one_teacher_divide_the_student_alike():
    teacher, student, _ = trained("sgd")
    growth = GrowthMap.between(teacher, student)
    grown = grow(teacher, student, map=growth)
    for rank in (True, False):
        mine = [p for p in teacher.parameters() if (p.ndim > 1) is rank]
        carried = carry_optimizer(torch.optim.SGD(mine, lr=0.1), growth, teacher, grown)
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
        mine, other = carried.state.get(p, {}), loaded.state.get(p, {})
        assert mine.keys() == other.keys()
        assert all(
            torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(other[key]))
            for key in mine
            if mine[key] is not None
        )
        assert name not in growth.fresh or not any(
            value.any() for value in mine.values() if isinstance(value, torch.Tensor)
        )
    for group, again in zip(carried.param_groups, loaded.param_groups, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {
            k: v for k, v in again.items() if k != "params"
        }


@pytest.mark.parametrize("choose", [every, named, prefixed, by_rank, head_first, named_groups])
@pytest.mark.parametrize("kind", [pytest.param("momentum", marks=pytest.mark.slow), "amsgrad"])
def test_state_lands_at_its_parameter_after_a_save_and_a_load(kind, choose):
    grown, growth, carried, _ = found = resumed(OPTIMISERS[kind], choose)
    assert growth.fresh
    assert any(carried.state[p] for p in grown.parameters())
    check_resumed(*found)
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
