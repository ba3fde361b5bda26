"""w1 as a function of ψ's parameters."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torchopt
from torch import nn

from phiopt import Gaussian, NewtonCG, initialize
from phiopt.bilevel import CG, Implicit, Replay, Unroll
from phiopt.lift import Compose, Pad
from phiopt.solve import TorchOpt
from tests.bilevel.problems import LAMBDAS, outer
from tests.bilevel.solving import STEPS
from tests.cases import generator, mlp, randn


class Weights(nn.Module):
    """ψ(x)_i = a_i x_i, with a feature added that is not the teacher's: a_0 x_0 x_1."""

    def __init__(self, *values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values, dtype=torch.float64))
        self.norm = nn.BatchNorm1d(len(values), affine=False, dtype=torch.float64)

    def forward(self, x):
        x = self.norm(x * self.values)
        return torch.cat([x, x[:, :1] * x[:, 1:2]], 1)

    def shape(self, shape):
        return (shape[0] + 1,)

    def index_maps(self, shape):
        return (torch.arange(shape[0]).numpy(),)


def channels():
    """ψ for images: a learned 1x1 convolution of one channel to three."""
    lift = nn.Conv2d(1, 3, 1, dtype=torch.float64)
    with torch.no_grad():
        lift.weight.copy_(randn(3, 1, 1, 1, seed=5))
        lift.bias.copy_(randn(3, seed=6))
    return lift


def conv_net(channels, width, seed):
    net = nn.Sequential(
        nn.Conv2d(channels, width, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4 * width, width)
    ).double()
    source = generator(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=source, dtype=p.dtype) / 2)
    return net


def squared(outputs, targets):
    return ((outputs[:, :2] - targets) ** 2).mean(1)


class TestLift:
    """w1 as a function of ψ's parameters."""

    FEATURES = (mlp(3, 2, 2, seed=1), mlp(4, 3, 2, seed=2), randn(30, 3, seed=3))
    IMAGES = (conv_net(1, 2, seed=1), conv_net(3, 3, seed=2), randn(12, 1, 3, 3, seed=3))

    def error(self, models, lift, solver, *adjoints, lambdas=LAMBDAS, step=1e-5):
        """The largest of the adjoints, of the derivative along a random direction, relative to central differences."""
        teacher, student, x = models
        y = randn(len(x), 2, seed=4)

        tangents = [randn(p.numel(), seed=i).view_as(p) for i, p in enumerate(lift.parameters())]

        def loss(by, adjoint=None):
            psi = deepcopy(lift)
            with torch.no_grad():
                for p, tangent in zip(psi.parameters(), tangents, strict=True):
                    p.add_(tangent, alpha=by)
            solution = initialize(
                teacher,
                student,
                lambdas,
                (x, y),
                lift=psi,
                loss=squared,
                neighbourhood=Gaussian(0.3),
                scale="paper",
                solver=solver,
                adjoint=adjoint,
            )
            return outer(solution.params), psi

        def claimed(adjoint):
            value, psi = loss(0.0, adjoint)
            gradient = torch.autograd.grad(value, list(psi.parameters()))
            return sum((g * t).sum() for g, t in zip(gradient, tangents, strict=True)).item()

        numeric = (loss(step)[0] - loss(-step)[0]).item() / (2 * step)
        assert abs(numeric) > 1e-4
        return max(abs(claimed(adjoint) - numeric) for adjoint in adjoints) / abs(numeric)

    @pytest.mark.parametrize("kind", ["features", pytest.param("images", marks=pytest.mark.slow)])
    @pytest.mark.parametrize(
        "term", [*(pytest.param(i, marks=pytest.mark.slow) for i in range(3)), 3]
    )
    def test_steps_against_central_differences(self, kind, term):
        """Through each of the terms that see inputs, and through all."""
        solver = TorchOpt(torchopt.sgd(0.05, momentum=0.5), steps=6, batch_size=10, check_every=6)
        models, lift = (
            (self.FEATURES, Weights(0.7, -1.2, 0.9))
            if kind == "features"
            else (self.IMAGES, channels())
        )
        lambdas = ((0.75, 0.25, 0, 0), (0, 0.25, 0.75, 0), (0, 0.25, 0, 0.75), LAMBDAS)[term]
        assert self.error(models, lift, solver, Replay(), Unroll(), lambdas=lambdas) < 1e-5

    @pytest.mark.slow
    def test_the_minimiser_against_central_differences(self):
        solver, adjoint = NewtonCG(tol=1e-7, draws=1), Implicit(CG(1e-10), tol=1e-5)
        models = (mlp(3, 2, 2, seed=1), mlp(4, 2, 2, seed=2), randn(16, 3, seed=3))
        lift = Weights(0.7, -1.2, 0.9)
        assert self.error(models, lift, solver, adjoint, step=1e-4) < 1e-4

    def test_replay_is_unroll_and_the_lift_is_left_as_it_was(self):
        teacher, student, x = self.FEATURES
        lift = Weights(0.7, -1.2, 0.9)
        before = {name: value.clone() for name, value in lift.state_dict().items()}
        results = []
        for adjoint in (Replay(), Unroll()):
            solution = initialize(
                teacher,
                student,
                LAMBDAS,
                (x, randn(30, 2, seed=4)),
                lift=lift,
                loss=squared,
                solver=STEPS,
                adjoint=adjoint,
            )
            results.append(torch.autograd.grad(outer(solution.params), lift.values)[0])
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)
        assert lift.training
        assert all(torch.equal(value, before[name]) for name, value in lift.state_dict().items())

    def test_a_part_of_a_composition(self):
        teacher, _, x = self.FEATURES
        lift = Compose(Weights(0.7, -1.2, 0.9), Pad((6,)))
        models = (teacher, mlp(6, 3, 2, seed=2), x)
        solver = replace(STEPS, check_every=4)
        assert self.error(models, lift, solver, Replay()) < 1e-5

    def test_without_an_adjoint_there_is_no_derivative(self):
        teacher, student, x = self.FEATURES
        solution = initialize(
            teacher,
            student,
            LAMBDAS,
            (x, randn(30, 2, seed=4)),
            lift=Weights(1.0, 1.0, 1.0),
            loss=squared,
            solver=STEPS,
        )
        assert not any(p.requires_grad for p in solution.params.values())
