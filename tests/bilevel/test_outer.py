"""E against its formula, and what it refuses. What `learn` makes of it is in test_learn.py."""

import pytest
import torch
import torchopt
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from phiopt.bilevel import OuterLoss, Training
from phiopt.objective import Gaussian
from tests.cases import generator, mlp, parameters, randn

STUDENT = mlp(4, 5, 3, seed=2)
W = parameters(STUDENT)
V = randn(20, 4, seed=5), torch.randint(3, (20,), generator=generator(6))
D2 = randn(20, 4, seed=7), torch.randint(3, (20,), generator=generator(8))


def plain(w, data=V):
    return cross_entropy(functional_call(STUDENT, w, (data[0],)), data[1])


@pytest.mark.parametrize("robust", [0.0, 0.25, 1.0])
def test_without_noise_every_mixture_is_the_clean_loss(robust):
    value = OuterLoss(V, robust=robust, neighbourhood=Gaussian(0.0)).of(STUDENT, 0)
    torch.testing.assert_close(value(W), plain(W))


def test_it_is_linear_in_the_mixture_and_one_function():
    def at(robust):
        return OuterLoss(V, robust=robust, neighbourhood=Gaussian(0.5)).of(STUDENT, 0)(W)

    torch.testing.assert_close(at(0.25), 0.75 * at(0.0) + 0.25 * at(1.0))
    assert at(1.0) == at(1.0)
    assert not torch.isclose(at(1.0), at(0.0))


def test_training_takes_its_steps_first():
    training = Training(D2, torchopt.sgd(0.1), steps=2, batch_size=None)
    value = OuterLoss(V, robust=0.0, training=training).of(STUDENT, 0)
    w = {name: p.clone().requires_grad_() for name, p in W.items()}
    moved = w
    for _ in range(2):
        slopes = torch.autograd.grad(plain(moved, D2), list(moved.values()), create_graph=True)
        moved = {n: p - 0.1 * g for (n, p), g in zip(moved.items(), slopes, strict=True)}
    torch.testing.assert_close(value(w), plain(moved))
    ours, theirs = (torch.autograd.grad(v, list(w.values())) for v in (value(w), plain(moved)))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"robust": 1.5}, ValueError, r"robust: got 1\.5, must lie in \[0, 1\]"),
        ({"robust": "all"}, TypeError, "robust: got 'all', must be a number"),
        ({"neighbourhood": 0.1}, TypeError, r"neighbourhood: got 0\.1, which has no perturb"),
        ({"neighbourhood": Gaussian}, TypeError, "neighbourhood: got the class Gaussian"),
        ({"training": D2}, TypeError, r"training: got \(a tensor of shape .*, must be a Training"),
        ({"loss": nn.CrossEntropyLoss}, TypeError, "loss: got the class CrossEntropyLoss"),
        ({"batch_size": 0}, ValueError, "batch_size: got 0"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        OuterLoss(V, **options)


def test_an_optimizer_of_pytorch_is_no_training():
    with pytest.raises(TypeError, match="optimizer: got an object of class SGD"):
        Training(D2, torch.optim.SGD(STUDENT.parameters(), 0.1))


def test_classes_on_the_last_axis_are_refused():
    """Unless a loss reads them there."""
    student = nn.Sequential(nn.Linear(4, 12), nn.Unflatten(1, (4, 3))).double()
    data = V[0], torch.randint(3, (20, 4), generator=generator())
    with pytest.raises(ValueError, match=r"^outer.data: targets are .*the classes on axis 1"):
        OuterLoss(data).of(student, 0)

    def last(outputs, targets):
        return cross_entropy(outputs.movedim(-1, 1), targets, reduction="none").mean(1)

    assert OuterLoss(data, loss=last).of(student, 0)(parameters(student)).isfinite()
