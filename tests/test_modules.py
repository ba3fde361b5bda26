"""Modules whose tensors have no memory of their own: expanded views, and views that overlap."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from phiopt import GrowthMap, Solution, TorchOpt, carry_optimizer, check, grow, initialize, learn
from phiopt._modules import overlapping, with_tensors
from phiopt.bilevel import OuterLoss, Replay
from phiopt.bilevel.search import Mirror
from tests.cases import mlp, randn

X, Y = randn(24, 4, seed=3), torch.arange(24) % 3
LAMBDAS = (0.4, 0.3, 0.2, 0.1)
FEW = TorchOpt(steps=3)


class Scaled(nn.Module):
    """A hidden layer times a scale that ``kind`` keeps as a view."""

    def __init__(self, width, kind, values=(1.0, 2.0)):
        super().__init__()
        self.net = mlp(4, width, 3, seed=width)
        one = torch.full((1,), values[0], dtype=torch.float64)
        long = torch.arange(1.0, width + 2, dtype=torch.float64) * values[1]
        if kind == "expanded buffer":
            self.register_buffer("scale", one.expand(width))
        elif kind == "expanded parameter":
            self.scale = nn.Parameter(one.expand(width))
        elif kind == "fixed expanded parameter":
            self.scale = nn.Parameter(one.expand(width), requires_grad=False)
        elif kind == "strided buffer":
            self.register_buffer("scale", one.expand(3, width, 2)[1, :, 0])
        elif kind == "expanded matrix":
            self.register_buffer("scale", one.view(1, 1).expand(1, width))
        elif kind == "one window in another":
            self.register_buffer("scale", long[:width])
            self.register_buffer("shift", long[1:])
        self.kind = kind

    def forward(self, x):
        hidden = self.net[0](x) * self.scale
        if self.kind == "one window in another":
            hidden = hidden + self.shift
        return self.net[2](hidden.tanh())


KINDS = [
    "expanded buffer",
    "expanded parameter",
    "fixed expanded parameter",
    "strided buffer",
    "expanded matrix",
    "one window in another",
]


@pytest.fixture(params=KINDS)
def models(request):
    return Scaled(5, request.param), Scaled(8, request.param, values=(3.0, 4.0))


def state(module):
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@pytest.mark.parametrize("fill", ["default", "zero-out", "net2wider", "vv-zz"])
def test_every_fill_places_the_teachers_values(models, fill):
    teacher, student = models
    before = {name: value.detach().clone() for name, value in state(student).items()}
    growth = GrowthMap.between(teacher, student)
    grown = grow(teacher, student, fill, map=growth)
    carried = growth.extract({name: value.detach() for name, value in state(grown).items()})
    if fill == "default":
        assert all(torch.equal(carried[name], value) for name, value in state(teacher).items())
    else:
        torch.testing.assert_close(grown(X), teacher(X))
    assert not any(map(overlapping, state(grown).values()))
    assert all(torch.equal(state(student)[name], value) for name, value in before.items())


def test_a_solve_is_saved_and_loaded(models, tmp_path):
    teacher, student = models
    solution = initialize(teacher, student, LAMBDAS, (X, Y), solver=FEW)
    solution.save(tmp_path / "solution.safetensors")
    again = Solution.load(tmp_path / "solution.safetensors", student)
    for name, value in state(solution.student).items():
        assert torch.equal(state(again.student)[name], value)
    torch.testing.assert_close(again.student(X), solution.student(X), rtol=0, atol=0)


def test_a_map_embeds_into_views_and_is_saved(models, tmp_path):
    teacher, student = models
    growth = GrowthMap.between(teacher, student)
    growth.save(tmp_path / "map.safetensors")
    growth = GrowthMap.load(tmp_path / "map.safetensors", teacher, student)
    u = {name: value.detach() for name, value in state(teacher).items()}
    w = growth.embed(u, into={name: value.detach() for name, value in state(student).items()})
    assert all(torch.equal(growth.extract(w)[name], value) for name, value in u.items())
    assert (state(student)["scale"] >= 3).all()  # untouched


def test_a_start_of_views_and_its_derivative():
    teacher, student = (Scaled(width, "expanded parameter") for width in (5, 8))
    start = {name: p.detach().clone() for name, p in student.named_parameters()}
    start["net.0.bias"] = torch.full((1,), 0.5, dtype=torch.float64).expand(8).requires_grad_()
    solution = initialize(
        teacher, student, LAMBDAS, (X, Y), start=start, solver=FEW, adjoint=Replay()
    )
    slopes = torch.autograd.grad(solution.params["net.0.bias"].sum(), start["net.0.bias"])
    assert slopes[0].isfinite().all()


@pytest.mark.parametrize("kind", ["expanded parameter", "one window in another"])
def test_a_check_and_a_carried_optimiser(kind):
    teacher, student = Scaled(5, kind), Scaled(8, kind)
    assert check(student, (X, Y)).trusted == 4
    dense = grow(
        teacher, deepcopy(teacher), "default"
    )  # expanded parameters cannot be stepped in place
    optimizer = torch.optim.Adam(dense.parameters())
    dense(X).sum().backward()
    optimizer.step()
    growth = GrowthMap.between(dense, student)
    grown = grow(dense, student, map=growth)
    carried = carry_optimizer(optimizer, growth, dense, grown)
    grown(X).sum().backward()
    carried.step()


def test_a_search_over_lambda():
    teacher, student = (Scaled(width, "expanded buffer") for width in (5, 8))
    search = Mirror(budget=2, restarts=1)
    learned = learn(teacher, student, (X, Y), OuterLoss((X + 1, Y)), solver=FEW, search=search)
    assert learned.outer <= learned.start_outer


def test_a_window_keeps_its_values_where_another_disagrees():
    long = torch.zeros(6)
    module = nn.Module()
    module.register_buffer("a", long[:4])
    module.register_buffer("b", long[2:])
    copy = with_tensors(module, {"a": torch.full((4,), 1.0), "b": torch.full((4,), 2.0)})
    assert copy.a.tolist() == [1.0] * 4
    assert copy.b.tolist() == [2.0] * 4
    assert not long.any()


def test_windows_that_agree_stay_one_memory():
    long = torch.zeros(6)
    module = nn.Module()
    module.register_buffer("a", long[:4])
    module.register_buffer("b", long[2:])
    new = torch.arange(6.0)
    copy = with_tensors(module, {"a": new[:4], "b": new[2:]})
    copy.a[3] = 9
    assert copy.b[1] == 9


@pytest.mark.parametrize(
    ("value", "shared"),
    [
        (torch.zeros(1).expand(3), True),
        (torch.zeros(4, 1).expand(4, 2), True),
        (torch.zeros(8).as_strided((3, 2), (1, 2)), True),
        (torch.zeros(8).as_strided((2, 3), (3, 1)), False),
        (torch.zeros(4, 4).t(), False),
        (torch.zeros(4, 4)[::2, 1:], False),
        (torch.zeros(1, 1).expand(1, 1), False),
        (torch.zeros(1).expand(0), False),
        (torch.zeros(()), False),
        (torch.zeros(3, 0), False),
    ],
)
def test_overlap_is_read_off_the_strides(value, shared):
    assert overlapping(value) is shared


class Cached(nn.Module):
    """Adds a product of two parameters, which it keeps from its first forward pass on, as attention biases are kept."""

    def __init__(self, width):
        super().__init__()
        self.net = mlp(4, width, 3, seed=width)
        self.bias = nn.Parameter(randn(3, 2, seed=width))
        self.kept = {}

    def train(self, mode=True):
        self.kept = {}
        return super().train(mode)

    def forward(self, x):
        if self.training:
            return self.net(x) + self.bias.sum(1)
        if "bias" not in self.kept:
            self.kept["bias"] = self.bias.sum(1)
        return self.net(x) + self.kept["bias"]


@pytest.mark.parametrize("training", [False, True])
def test_a_grown_student_forgets_what_it_computed_from_its_old_parameters(training):
    teacher, student = Cached(5).double().eval(), Cached(8).double().eval()
    before, old = teacher(X), student(X)
    student.net.training = training
    grown = grow(teacher, student, "zero-out")
    assert torch.allclose(grown(X), before, atol=1e-12)
    assert torch.equal(student(X), old)
    assert [part.training for part in grown.modules()] == [p.training for p in student.modules()]
