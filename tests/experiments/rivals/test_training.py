"""The rivals that change the training: distillation and noise augmentation."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from experiments.methods import METHODS
from experiments.models import CNN
from experiments.rivals.augmentation import Augmentation, augmentation
from experiments.rivals.distillation import Distillation, distillation
from experiments.train import CROSS_ENTROPY, Recipe, fit
from phiopt import Corruption, Uniform
from tests.experiments.rivals.problems import growth_of


def applied(loss, model, x, y, generator=None):
    return loss(model, *loss.prepare(x, y, generator or Generator()))


def test_distillation_is_its_formula(growth):
    x, y = growth.data
    hooked = distillation(growth, 0)
    logits = hooked.student(x)
    p = (growth.teacher(x) / 2).softmax(1)
    q = (logits[:, [1, 3, 4]] / 2).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    expected = 0.5 * F.cross_entropy(logits, y) + 0.5 * 2**2 * divergence
    torch.testing.assert_close(applied(hooked.loss, hooked.student, x, y), expected)
    assert hooked.loss.cost == pytest.approx(4 / 3)
    assert torch.equal(logits, METHODS["scratch"](growth, 0).student(x))


def test_a_student_equal_to_its_teacher_has_only_the_hard_loss(growth):
    x, y = growth.data
    loss = applied(Distillation(growth.teacher, weight=0.25), growth.teacher, x, y)
    torch.testing.assert_close(loss, 0.75 * F.cross_entropy(growth.teacher(x), y))


def test_distillation_needs_inputs_that_the_teacher_reads():
    growth = growth_of("cnn")
    coloured = replace(growth, student=lambda: CNN(3, 4, (5, 5), 7, 5).double())
    with pytest.raises(ValueError, match=r"student: reads Channels.* of the teacher's inputs"):
        distillation(coloured, 0)


@pytest.mark.slow
def test_distillation_trains_towards_the_teacher_and_leaves_it_alone():
    growth = growth_of("mlp")
    hooked, data = distillation(growth, 0), growth.data
    recipe = Recipe(400, 40, ())
    before = growth.teacher.head.weight.clone()

    def distance(loss):
        trained = fit(hooked.student, data, data, recipe, 1e-2, seed=0, loss=loss).model
        known = trained(data.x)[:, [1, 3, 4]].log_softmax(1)
        return F.kl_div(known, growth.teacher(data.x).softmax(1), reduction="batchmean").item()

    assert distance(hooked.loss) < distance(CROSS_ENTROPY) / 2
    assert all(p.grad is None for p in hooked.loss.teacher.parameters())
    assert torch.equal(growth.teacher.head.weight, before)


def test_augmentation_is_the_loss_on_neighbours_drawn_afresh(growth):
    x, y = growth.data
    hooked = augmentation(growth, 0)
    generator = Generator().manual_seed(5)
    first, second = (applied(hooked.loss, hooked.student, x, y, generator) for _ in range(2))
    assert first != second
    noise = growth.phi.neighbourhood
    noisy = noise.perturb(x, noise.draw(x, Generator().manual_seed(5)))[0]
    assert torch.equal(first, F.cross_entropy(hooked.student(noisy), y))
    assert torch.equal(hooked.student(x), METHODS["default"](growth, 0).student(x))


def test_augmentation_draws_in_the_range_of_the_students_data():
    growth = growth_of("mlp")
    own = Corruption(0.3, low=-2.0, high=3.0)
    assert augmentation(growth, 0).loss.neighbourhood == growth.phi.neighbourhood
    assert augmentation(replace(growth, noise=own), 0).loss.neighbourhood == own


def test_several_samples_are_averaged_and_paid_for(growth):
    x, y = growth.data
    loss = Augmentation(Uniform(0.0, samples=3))
    assert loss.cost == 3
    torch.testing.assert_close(
        applied(loss, growth.teacher, x, y), F.cross_entropy(growth.teacher(x), y)
    )


@pytest.mark.slow
def test_augmented_training_is_more_robust():
    generator = Generator().manual_seed(0)
    growth = growth_of("mlp", classes=None)
    # Class k lights up a column of the image.
    y = torch.arange(90) % 3
    x = torch.zeros(90, 1, 4, 4, dtype=torch.float64)
    x[torch.arange(90), 0, :, y] = 1.0
    data = growth.data._replace(x=x, y=y)
    noisy = Corruption(0.5)
    test = noisy.perturb(x, noisy.draw(x, generator))[0]
    hits = {}
    for name, loss in (("plain", CROSS_ENTROPY), ("augmented", Augmentation(noisy))):
        student = METHODS["scratch"](growth, 0).student
        model = fit(student, data, data, Recipe(400, 30, ()), 1e-2, seed=0, loss=loss).model
        hits[name] = (model(test).argmax(1) == y).double().mean()
    assert hits["augmented"] > hits["plain"]
