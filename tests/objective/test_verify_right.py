"""What has a right gradient passes the check, whatever it looks like, and is left as it was."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from phiopt.objective import pure_model
from phiopt.objective.mean_loss import Task
from phiopt.objective.verify import verify_gradient
from tests.cases import mlp
from tests.functions import by_hand
from tests.objective.layers import PLAIN, X, Y, net, verify

NUMPY = np.random.default_rng(0)
OWN = torch.Generator().manual_seed(0)


RIGHT = {
    "relu": F.relu,
    "kinks": lambda x: x.abs().clamp(0.1, 0.3) + F.hardswish(x) + F.hardshrink(x, 0.1),
    "pooled": lambda x: F.max_pool1d(x[:, None], 3, 1, 1)[:, 0] + x.sort(1)[0],
    "gate": lambda x: x * (x > 0) + (x > 0).detach(),
    "detached constant": lambda x: x - torch.ones_like(x).detach(),
    "steps": lambda x: x + x.round() + F.one_hot(x.argmax(1), 5),
    "softmax": lambda x: (x - x.amax(1, keepdim=True).detach()).softmax(1),
    "dropout": lambda x: F.dropout(x, 0.5),
    "random": lambda x: x + torch.rand_like(x),
    "NumPy": lambda x: x * np.random.rand() * random.random(),  # noqa: NPY002
    "own generator": lambda x: x + torch.rand(x.shape, generator=OWN),
    "another function at each call": lambda x: x * NUMPY.random(),
    "narrow": lambda x: x.float() * torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]).half().to(x.dtype),
    "right by hand": by_hand(torch.sin, torch.cos),
    "huge": lambda x: 1e8 + 1e3 * x,
    "flat": lambda x: 0 * x,
    "norm": lambda x: F.layer_norm(x, (5,)) / x.norm(dim=1, keepdim=True),
    "raising when moved": lambda x: x + torch.zeros(3)[(x[0, 0] * 1e3).long().abs() % 2],
}


@pytest.mark.parametrize("function", RIGHT.values(), ids=RIGHT)
def test_a_right_gradient_passes(function):
    verify(net(function))
    verify(net(function).float(), X.float())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.last = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        state = torch.zeros(1, len(x), 5)
        return self.last(self.net(x, (state, state))[0][:, -1])


def tied():
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3))
    module[2].weight = module[0].weight
    return module


MODULES = {
    "padded": lambda: nn.Sequential(
        nn.Embedding(5, 2, padding_idx=0), nn.Flatten(), nn.Linear(6, 3)
    ),
    "batch statistics": lambda: nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.ReLU(), nn.Linear(5, 3)
    ),
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)),
    "frozen": lambda: nn.Sequential(nn.Linear(4, 5).requires_grad_(False), nn.Linear(5, 3)),
    "tied": tied,
    "recurrent": Recurrent,
    "spectral": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)),
    "bfloat16": lambda: mlp(4, 5, 3).bfloat16(),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_a_right_gradient_passes(name):
    x = {"padded": torch.tensor([[0, 1, 0], [2, 3, 0]]), "recurrent": X.float()[:, None]}
    dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
    verify(MODULES[name](), x.get(name, X.to(dtype)))


def test_a_loss_that_is_right_passes():
    for loss in (
        lambda o, y: 1 - F.cosine_similarity(o, F.one_hot(y, 3).to(o.dtype)),
        lambda o, y: F.cross_entropy(o, y, reduction="none", weight=torch.tensor([0.5, 1.0, 2.0])),
        lambda o, y: F.multi_margin_loss(o, y, reduction="none"),
        lambda o, y: ((o.softmax(1).detach() * 0 + o - 1) ** 2).sum(1),
    ):
        verify(net(torch.tanh), loss=loss)


def test_nothing_is_touched():
    module = net(lambda x: x + torch.rand_like(x) * F.dropout(x, 0.5)).train()
    before = {n: v.clone() for n, v in module.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), OWN.get_state()
    params = {n: p.detach().clone() for n, p in module.named_parameters()}
    task = Task(pure_model(module, lambda x: x), PLAIN, X.clone(), Y)
    verify_gradient(module, lambda x: x, task, params, ["lambdas.task"])
    assert all(part.training for part in module.modules())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert all(torch.equal(value, before[n]) for n, value in module.state_dict().items())
    assert torch.equal(task.inputs, X)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert torch.equal(OWN.get_state(), states[2])


def test_it_costs_a_few_passes():
    calls = []

    def counted(x):
        calls.append(torch.is_grad_enabled())
        return x

    verify(net(counted))
    assert len(calls) <= 8
