"""Losses and students whose gradient is not that of their values are named."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import StackDataset

from phiopt._task_checks import require_gradient
from phiopt.growth import grow
from phiopt.initialize import initialize
from phiopt.objective import pure_model
from phiopt.objective.mean_loss import Task
from phiopt.solve import TorchOpt
from tests.cases import generator, mlp, randn
from tests.functions import by_hand
from tests.objective.layers import PLAIN, Calling, X, Y, net, verify


def still(x):
    with torch.no_grad():
        scale = x.square().mean(1, keepdim=True)
    return x / (1 + scale)


def overwritten(x):
    y = x.clone()
    y.data.mul_(2)
    return y * y


def weakened(x):
    x = x * 1
    x.register_hook(lambda gradient: gradient / 2)
    return x


WRONG = {
    "detach": (lambda x: x * x.sigmoid().detach(), "it calls detach"),
    "a small part": (lambda x: x + 1e-3 * (x * x).detach(), "it calls detach"),
    "no grad": (still, "it calls torch.no_grad"),
    "data": (lambda x: x * x.data, r"it calls \.data"),
    "written in data": (overwritten, r"it calls \.data"),
    "item": (lambda x: x * x.norm().item(), "it calls item"),
    "float": (lambda x: x * float(x.norm()), "it calls float"),
    "straight-through": (lambda x: x + (x.round() - x).detach(), "detach, round.*straight-through"),
    "rounded by hand": (by_hand(torch.round, torch.ones_like), "the backward of Made, round.*back"),
    "slope by hand": (by_hand(torch.sin, lambda x: 1.02 * x.cos()), "correct that backward"),
    "hook": (weakened, "it calls register_hook"),
    "reversed": (by_hand(torch.clone, lambda x: -torch.ones_like(x)), "the backward of Made"),
}


@pytest.mark.parametrize(("function", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_gradient_is_named_with_its_layer(function, message):
    with pytest.raises(TypeError, match=rf"^student: the gradient of 1\.1 \(Calling\) .*{message}"):
        verify(net(function))


@pytest.mark.parametrize("case", ["detach", "item", "straight-through", "slope by hand"])
def test_a_loss_is_named(case):
    function, message = WRONG[case]
    with pytest.raises(TypeError, match=rf"^loss: its gradient is not .*{message}"):
        verify(net(torch.tanh), loss=lambda o, y: PLAIN(function(o), y))


class Weighted(nn.Linear):
    """Its weight is left out of the derivative."""

    def forward(self, x):
        return F.linear(x, self.weight.detach(), self.bias)


def test_a_parameter_that_is_left_out_is_named_with_the_terms():
    with torch.random.fork_rng():
        module = nn.Sequential(nn.Linear(4, 5), Weighted(5, 5), nn.Linear(5, 3))
    with pytest.raises(TypeError, match=r"of 1 \(Weighted\)") as caught:
        verify(module, weights=("lambdas.task", "lambdas.noise"), x=X.float())
    assert "in 1.weight among others" in str(caught.value)
    assert "lambdas.task, lambdas.noise would be" in str(caught.value)


class Distilled(nn.Module):
    """Has a target network, which is not learned."""

    def __init__(self, learned):
        super().__init__()
        self.net, self.target = mlp(4, 3, seed=1), mlp(4, 3, seed=2)
        self.target.requires_grad_(learned)

    def forward(self, x):
        with torch.no_grad():
            goal = self.target(x)
        return self.net(x) * goal


def test_what_is_not_learned_may_be_cut():
    verify(Distilled(learned=False))
    with pytest.raises(TypeError, match=r"the module itself.*torch.no_grad.* in target\.0\.weight"):
        verify(Distilled(learned=True))


def test_a_student_that_only_runs_in_its_own_precision_is_looked_at_in_it():
    def strict(x):
        if x.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float")
        return x * x.detach()

    with pytest.raises(TypeError, match=r"1\.1 \(Calling\) is not .* calls detach"):
        verify(net(strict).float(), X.float())


def test_new_units_that_have_no_say_at_the_start_are_seen():
    """Zero outgoing weights hide what is cut before them."""

    class Grown(nn.Module):
        def __init__(self):
            super().__init__()
            self.old, self.new, self.out = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 3)
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

        def forward(self, x):
            return self.old(x) + self.out(self.new(x).detach())

    with pytest.raises(TypeError, match=r"the module itself .* detach"):
        verify(Grown(), X.float())


def far_wrong(x):
    """A sine whose derivative is wrong at large numbers alone."""
    return by_hand(torch.sin, lambda x: x.cos() * torch.where(x.abs() > 2.6, 0.5, 1.0))(x)


def test_a_backward_that_is_wrong_at_larger_activations_is_named():
    small = partial(torch.mul, 0.5)
    assert net(torch.tanh)[:2](X).abs().max() < 2.6
    with pytest.raises(
        TypeError,
        match=r"^student: the gradient of 1\.1 \(Calling\) .* 3 times as large .* backward of Made",
    ):
        verify(net(far_wrong))
    with pytest.raises(TypeError, match=r"^loss: the gradient is not .* times as large .* of Made"):
        verify(net(torch.tanh), loss=lambda o, y: PLAIN(far_wrong(small(o)), y))


def asks_mode(x):
    return x if torch.is_grad_enabled() else 1.1 * x


def asks_tensor(x):
    return x if x.requires_grad else 1.1 * x


@pytest.mark.parametrize("function", [asks_mode, asks_tensor])
def test_what_is_another_function_where_no_gradient_is_recorded_is_named(function):
    with pytest.raises(TypeError, match=r"^student: 1\.1 \(Calling\) computes other values where"):
        verify(net(function))
    with pytest.raises(TypeError, match=r"^loss: it computes other values where"):
        verify(net(torch.tanh), loss=lambda o, y: PLAIN(function(o), y))


class Keeping(nn.Linear):
    """It keeps its first weight, off the graph."""

    kept = None

    def forward(self, x):
        self.kept = self.weight.detach() if self.kept is None else self.kept
        return F.linear(x, self.kept, self.bias)


def test_a_weight_that_is_kept_off_the_graph_is_named_with_its_layer():
    module = net(torch.tanh)
    module[2] = Keeping(5, 3).double()
    with torch.no_grad():
        module[2].weight.copy_(randn(3, 5))
        module[2].bias.zero_()
    with pytest.raises(TypeError, match=r"^student: the gradient of 2 \(Keeping\) .* detach"):
        verify(module)


def test_a_target_that_stays_has_a_remedy():
    def loss(outputs, targets):
        return (outputs - outputs.roll(1, 1).detach()).square().sum(1)

    with pytest.raises(TypeError, match=r"calls detach.*a copy of the model whose parameters have"):
        verify(net(torch.tanh), loss=loss)


SOLVER = TorchOpt(steps=1, batch_size=4)


def hard(outputs, targets):
    return PLAIN(outputs * outputs.detach(), targets)


@pytest.mark.parametrize(
    "lambdas", [(0.4, 0.3, 0.3, 0), (0.6, 0.4, 0, 0), (0, 0.2, 0, 0.8), (0, 0.4, 0.6, 0)]
)
def test_initialize_refuses_at_every_corner(lambdas):
    teacher, student = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    data = randn(8, 4), torch.randint(2, (8,), generator=generator())
    with pytest.raises(
        TypeError, match="loss: its gradient is not that of its values: it calls detach"
    ):
        initialize(teacher, student, lambdas, data, loss=hard, solver=SOLVER)
    cut = grow(teacher, student, "default")
    cut[1] = Calling(lambda x: x.tanh() + x.detach())
    with pytest.raises(TypeError, match=r"student: the gradient of 1 \(Calling\) is not .* detach"):
        initialize(cut, deepcopy(cut), lambdas, data, solver=SOLVER)


def hooked_within():
    identity = nn.Identity()
    identity.register_full_backward_hook(lambda module, inwards, outwards: (0.7 * inwards[0],))
    return lambda x: identity(x * 1)


@pytest.mark.parametrize("place", ["student", "loss"])
def test_what_torch_func_cannot_differentiate_is_named(place):
    hooked = hooked_within()
    module = net(hooked if place == "student" else torch.clone).eval()
    loss = (lambda o, y: PLAIN(hooked(o), y)) if place == "loss" else PLAIN
    params = {n: p.detach().clone() for n, p in module.named_parameters()}
    task = Task(pure_model(module, lambda x: x), loss, X, Y)
    message = r"in 1\.1 \(Calling\)" if place == "student" else "loss: torch.func cannot"
    with pytest.raises(TypeError, match=message):
        require_gradient(module, lambda x: x, task, params)


def test_a_gradient_that_is_wrong_on_some_examples_alone_is_seen():
    """Where the largest output is the right class, its cosine is 1, and its gradient zero."""

    def loss(outputs, targets):
        soft = outputs.softmax(1)
        hard = F.one_hot(outputs.argmax(1), 3)
        outputs = outputs * (hard - soft.detach() + soft)
        return 1 - F.cosine_similarity(outputs, F.one_hot(targets, 3).to(outputs))

    student = mlp(4, 5, 3, seed=1)
    x = randn(8, 4)
    right = student(x).argmax(1)
    y = torch.where(torch.arange(8) < 6, right, (right + 1) % 3)
    with pytest.raises(TypeError, match="loss: its gradient is not that of its values"):
        initialize(
            student,
            mlp(4, 5, 3, seed=2),
            (0.5, 0.5, 0, 0),
            (x, y),
            loss=loss,
            start=dict(student.named_parameters()),
        )


@pytest.mark.parametrize("kind", ["label", "place", "size", "label of a data set"])
def test_a_cut_on_some_examples_is_seen_wherever_they_are(kind):
    """In a data set sorted by label the first examples are of one."""
    stored = "set" in kind
    kind = kind.split()[0]
    x, y = randn(60, 4), torch.arange(3).repeat_interleave(20)
    x[33] *= 30

    class Cut(nn.Module):
        def forward(self, z):
            if kind == "label":
                return z.tanh()
            there = torch.arange(len(z)) >= 8 if kind == "place" else z.abs().amax(1) > 12
            return torch.where(there[:, None], z.detach(), z).tanh()

    def loss(o, y):
        return PLAIN(torch.where((y == 2)[:, None], o.detach(), o) if kind == "label" else o, y)

    student = nn.Sequential(mlp(4, 5, seed=1), Cut(), mlp(5, 3, seed=2))
    assert not (kind == "size" and bool((student[0](x[:8]).abs().amax(1) > 12).any()))
    data = StackDataset(x, y) if stored else (x, y)
    with pytest.raises(TypeError, match=r"gradient (of 1 \(Cut\) )?is not that of its values"):
        initialize(student, deepcopy(student), (0.5, 0.5, 0, 0), data, loss=loss, solver=SOLVER)
