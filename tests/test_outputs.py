"""Outputs of any shape: one axis, none, an empty one, and examples on another axis than the first."""

import pytest
import torch
from torch import nn

from phiopt import (
    Frobenius,
    OuterLoss,
    Replay,
    Spectral,
    TorchOpt,
    Uniform,
    check,
    criteria,
    initialize,
    learn,
)
from phiopt.bilevel.search import Mirror
from phiopt.objective.importance import leverage_scores
from phiopt.objective.mean_loss import Task
from tests.cases import mlp, randn

X, Y = randn(40, 4, seed=3), randn(40, seed=4)
LAMBDAS = (0.4, 0.3, 0.2, 0.1)
FEW = TorchOpt(steps=6, batch_size=40)


class Ended(nn.Module):
    """An MLP, and what ``end`` makes of its outputs ``(batch, k)``."""

    def __init__(self, width, end, outputs):
        super().__init__()
        self.net, self.end = mlp(4, width, outputs, seed=width), end

    def forward(self, x):
        return self.end(self.net(x))


def per_example(outputs, targets):
    return (outputs.reshape(len(targets), -1) - targets[:, None]).square().mean(1)


def squared(outputs, targets):
    return (outputs - targets).square()


def over_time(outputs, targets):
    return (outputs[..., 0].mT - targets[:, None]).square().mean(1)


def of_sums(outputs, targets):
    return (outputs.sum(1) - targets).square()


ENDS = {
    "(batch,)": (lambda z: z.squeeze(1), 1, squared),
    "(batch, 1)": (lambda z: z, 1, per_example),
    "(batch, 2, 1, 1)": (lambda z: z[..., None, None], 2, per_example),
    "()": (lambda z: z.mean(), 1, squared),
    "(time, batch, 1)": (lambda z: z.mT[..., None], 3, over_time),
    "(batch, 0)": (lambda z: z[:, :0], 1, of_sums),
}


def models(shape):
    end, outputs, loss = ENDS[shape]
    return Ended(3, end, outputs), Ended(5, end, outputs), loss


OPTIONS = {
    "default": {},
    "gauss-newton": {"curvature": Frobenius(matrix="gauss-newton")},
    "two parts": {"curvature": Frobenius(batch=0.9)},
    "spectral": {"curvature": Spectral(2)},
    "replay": {"adjoint": Replay()},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    "shape",
    [
        "(batch,)",
        *(
            pytest.param(s, marks=pytest.mark.slow)
            for s in ("()", "(time, batch, 1)", "(batch, 0)")
        ),
    ],
)
def test_every_curvature_takes_them(shape, option):
    teacher, student, loss = models(shape)
    options = {"solver": FEW, "loss": loss, "throw": False, **OPTIONS[option]}
    solution = initialize(teacher, student, LAMBDAS, (X, Y), **options)
    assert not solution.lost


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["(batch,)", "(batch, 0)"])
def test_a_micro_batch_changes_nothing_but_rounding(shape):
    teacher, student, loss = models(shape)
    whole, parts = (
        initialize(
            teacher, student, LAMBDAS, (X, Y), loss=loss, solver=FEW, throw=False, micro_batch=m
        )
        for m in (None, 7)
    )
    for name, value in whole.params.items():
        torch.testing.assert_close(parts.params[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", ["()", "(time, batch, 1)"])
def test_a_micro_batch_is_refused_where_examples_are_not_on_the_first_axis(shape):
    teacher, student, loss = models(shape)
    with pytest.raises(ValueError, match="micro_batch: the outputs of two examples change"):
        initialize(teacher, student, LAMBDAS, (X, Y), loss=loss, solver=FEW, micro_batch=7)


@pytest.mark.parametrize("shape", ENDS)
def test_influence_is_one_positive_number_an_example(shape):
    _, student, loss = models(shape)
    task = Task(lambda _, x: student(x), loss, X, Y)
    scores = leverage_scores(task, student(X).detach())
    assert scores.shape == (40,)
    assert (scores > 0).all()


def test_one_axis_has_the_influence_of_two():
    _, flat, loss = models("(batch,)")
    scores = [
        leverage_scores(Task(lambda _, x: flat(x), each, X, Y), outputs.detach())
        for each, outputs in ((loss, flat(X)), (per_example, flat(X)[:, None]))
    ]
    torch.testing.assert_close(*scores)


@pytest.mark.parametrize("shape", ["(batch,)", "()", "(time, batch, 1)"])
def test_measures_checks_and_searches_take_them(shape):
    teacher, student, loss = models(shape)
    assert criteria.robustness(student, (X, Y), Uniform(0.1), loss=loss) > 0
    assert check(student, (X, Y), loss=loss).trusted == 4
    outer = OuterLoss((X + 1, Y), loss=loss)
    search = Mirror(budget=1, restarts=1)
    learned = learn(teacher, student, (X, Y), outer, loss=loss, solver=FEW, search=search)
    assert learned.outer == learned.start_outer


def test_predictions_need_an_axis_of_classes():
    _, student, _ = models("(batch,)")
    with pytest.raises(ValueError, match=r"model: its outputs are \(40,\), must be logits"):
        criteria.predict(student, (X, Y))
    with pytest.raises(ValueError, match="outputs must be logits"):
        criteria.accuracy(student, (X, torch.zeros(40)[:, None].long()[:, 0]))


class Mapped(nn.Module):
    """A model of tokens that returns a mapping, its logits not first, as those of transformers may."""

    def __init__(self, width):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, width), nn.Linear(width, 9)

    def forward(self, tokens):
        hidden = self.embed(tokens).tanh()
        return {"hidden": hidden, "loss": None, "logits": self.head(hidden)}


TOKENS = torch.randint(9, (20, 5), generator=torch.Generator().manual_seed(1))


def test_the_logits_of_a_mapping_are_the_outputs():
    torch.manual_seed(0)
    teacher, student = Mapped(4), Mapped(8)
    data = TOKENS, (TOKENS + 1) % 9
    solution = initialize(
        teacher, student, (0.5, 0.3, 0.0, 0.2), data, start="zero-out", solver=FEW
    )
    assert solution.objective <= solution.start_objective
    own = nn.Sequential(Moved(teacher))
    assert criteria.evaluate(teacher, data) == criteria.evaluate(own, data)
    assert criteria.predict(solution.student, data).shape == (20, 9, 5)
    assert check(teacher, data).trusted == 4


class Moved(nn.Module):
    """The logits alone, with the classes on axis 1."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(tokens)["logits"].movedim(-1, 1)


def test_a_mapping_without_tensors_is_refused():
    class Empty(Mapped):
        def forward(self, tokens):
            super().forward(tokens)
            return {"logits": None}

    with pytest.raises(TypeError, match="model: its forward returned dict, must return one Tensor"):
        criteria.evaluate(Empty(4), (TOKENS, TOKENS))
