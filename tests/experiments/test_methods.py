"""The paper's initialisations: what they start from and what they spend."""

from dataclasses import replace

import pytest
import torch

from experiments.data import digits
from experiments.methods import METHODS, Growth, Initialised, gradients
from experiments.models import MLP, built
from phiopt.solve import Stats
from tests.experiments.tiny import TASK


def test_gradient_evaluations_price_each_kind_of_pass():
    # 10 gradients of two passes, six passes alone, ten products with their gradient, two without.
    stats = Stats(steps=10, gradient=10, forward=26, hvp=12, rollbacks=0, seconds=0.0)
    assert gradients(stats, samples=1, products=1) == 20 + 6 / 3 + 10 * 5 + 2 * 2.5
    on_parts = replace(stats, hvp=4.5)
    assert gradients(on_parts, samples=1, products=0.25) == 20 + 6 / 3 + 2.5 * 5 + 2 * 2.5
    assert gradients(stats, samples=1, products=None) == 22


def test_phi_is_paid_for_in_evaluations_of_the_students_batches():
    growth, _ = grown("scratch")
    price = METHODS["phi"](growth, 0).gradients
    larger = replace(growth, batch_size=2 * growth.batch_size)
    assert METHODS["phi"](larger, 0).gradients == price / 2 > 0


def grown(method):
    splits = digits(0)
    growth = Growth(
        teacher=built(TASK.teacher, 7),
        student=TASK.student,
        data=TASK.taught(0, splits).train,
        classes=TASK.classes,
        theta=TASK.theta,
        phi=TASK.phi,
        batch_size=TASK.student_recipe.batch_size,
    )
    return growth, METHODS[method](growth, 3).student


@pytest.mark.parametrize("method", ["zero", "uniform", "default"])
def test_warm_starts_hold_the_teacher(method):
    growth, student = grown(method)
    teacher = growth.teacher
    assert torch.equal(student.hidden[0].weight[:6], teacher.hidden[0].weight)
    assert torch.equal(student.head.weight[5:, :6], teacher.head.weight)
    fresh = torch.cat([student.hidden[0].weight[6:].flatten(), student.head.bias[:5]])
    if method == "zero":
        assert (fresh == 0).all()
    elif method == "uniform":
        assert 0 <= fresh.min() < fresh.max() <= TASK.theta
    else:
        assert torch.equal(student.hidden[0].weight[6:], grown("scratch")[1].hidden[0].weight[6:])


def test_gradients_without_a_model_meanwhile_are_refused():
    with pytest.raises(ValueError, match=r"start: got None, must be given where 5 were spent"):
        Initialised(MLP(64, (6,), 5), 5)
