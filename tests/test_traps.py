"""Silent traps are said aloud: one warning, of one category, at the line of the user, and none where all is well."""

import copy
import warnings

import pytest
import torch
from torch import nn

import phiopt
from phiopt import criteria
from tests.cases import mlp, randn

FEW = phiopt.TorchOpt(steps=1)
LAMBDAS = (0.4, 0.3, 0.3, 0.0)


def separable(count=300):
    """A teacher that is right on its own data, and the data."""
    x = randn(count, 4, seed=1)
    return nn.Linear(4, 3).double(), x


def trained(count=300):
    teacher, x = separable(count)
    return teacher, (x, teacher(x).argmax(1))


def solve(teacher, data, student=None, lambdas=LAMBDAS, **options):
    student = student or nn.Linear(4, 5).double()
    return phiopt.initialize(
        teacher, student, lambdas, data, solver=FEW, certificate=None, **options
    )


def the_warning(call):
    """The one warning of a call that stands in this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (warning,) = caught
    assert warning.category is phiopt.PhioptWarning
    assert warning.filename == __file__
    return str(warning.message)


def on_bytes():
    """A teacher of bytes, and its data."""
    teacher, x = separable()
    x = ((x - x.min()) / (x.max() - x.min()) * 255).round()
    y = teacher(x).argmax(1)
    return teacher, (x, torch.where(torch.arange(len(y)) % 5 > 0, y, (y + 1) % 3))


class Softmax(nn.Module):
    def __init__(self, teacher):
        super().__init__()
        self.net = teacher

    def forward(self, x):
        return self.net(x).softmax(1)


def test_all_is_well():
    teacher, data = trained()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(teacher, data)
        solve(teacher, data, neighbourhood=phiopt.Gaussian(1e-3))
        solve(teacher, data, neighbourhood=phiopt.Corruption(0.3, low=-9, high=9))
        teacher, data = on_bytes()
        solve(teacher, data, neighbourhood=phiopt.Uniform(25.0))
        solve(teacher, data, lambdas=(0.5, 0.5, 0, 0))  # no noise


@pytest.mark.parametrize("kind", [None, phiopt.Uniform(0.1), phiopt.Gaussian(0.1)])
def test_a_delta_that_is_nothing_beside_the_inputs(kind):
    teacher, data = on_bytes()
    message = the_warning(lambda: solve(teacher, data, neighbourhood=kind))
    assert message.startswith("neighbourhood: δ = 0.1 is nothing beside inputs from 0 to 255")
    name = "Uniform" if kind is None else type(kind).__name__
    assert f"neighbourhood={name}(25.5)" in message


@pytest.mark.parametrize("range_", [(0, 1), (0, 1000)])
def test_corruption_of_another_range(range_):
    teacher, data = trained()
    noise = phiopt.Corruption(0.3, low=range_[0], high=range_[1])
    message = the_warning(lambda: solve(teacher, data, neighbourhood=noise))
    assert message.startswith(
        f"neighbourhood: Corruption replaces pixels by values from {range_[0]}"
    )


def test_a_softmax_before_the_cross_entropy():
    teacher, data = trained()
    for loss in (None, nn.CrossEntropyLoss(reduction="none")):
        student = Softmax(nn.Linear(4, 5).double())
        message = the_warning(lambda s=student, f=loss: solve(Softmax(teacher), data, s, loss=f))
        assert message.startswith("teacher: its outputs are probabilities")

    def negative_log(outputs, targets):
        return nn.functional.nll_loss(outputs.log(), targets, reduction="none")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(Softmax(teacher), data, Softmax(nn.Linear(4, 5).double()), loss=negative_log)


def test_a_teacher_that_guesses():
    teacher, (x, y) = trained()
    shuffled = x, y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    message = the_warning(lambda: solve(teacher, shuffled))
    assert message.startswith("teacher: it is right on ")
    same = nn.Linear(4, 3).double()
    nn.init.zeros_(same.weight)
    assert "guesses" in the_warning(lambda: solve(same, (x, y)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(teacher, (shuffled[0][:50], shuffled[1][:50]))  # too few to say
        noisy = torch.where(torch.arange(len(y)) % 5 < 3, shuffled[1], y)
        solve(teacher, (x, noisy))  # weak, and better than guesses
        solve(teacher, shuffled, loss=nn.CrossEntropyLoss(reduction="none"))


def normed(classes, width):
    return nn.Sequential(
        nn.Linear(4, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, classes)
    )


def test_batch_norms_without_statistics():
    teacher, student = normed(3, 6).double(), normed(3, 8).double()
    x = randn(40, 4, seed=1)
    message = the_warning(lambda: solve(teacher, (x, torch.arange(40) % 3), student))
    assert message.startswith("teacher: its running statistics were never updated, in 1 (")
    old = copy.deepcopy(teacher)  # as of a file older than num_batches_tracked
    old.train()(x)
    old[1].num_batches_tracked.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(old, (x, torch.arange(40) % 3), student)
        teacher.train()(x)
        solve(teacher, (x, torch.arange(40) % 3), student)


def test_a_teacher_runs_once_and_stays_as_it_is():
    teacher, data = trained()
    before = copy.deepcopy(teacher.state_dict())
    runs = []
    teacher.register_forward_hook(lambda module, args, out: runs.append(len(args[0])))
    growth = phiopt.GrowthMap.between(teacher, nn.Linear(4, 5).double())
    runs.clear()
    solve(teacher.train(), data, map=growth)
    assert sum(runs) == len(data[0])
    assert teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_teacher_and_student_the_same_or_too_small_are_errors():
    teacher, data = trained()
    with pytest.raises(ValueError, match=r"student: got the teacher itself"):
        solve(teacher, data, teacher)
    with pytest.raises(
        ValueError, match=r"student is smaller than its teacher: 0.weight has size 6"
    ):
        solve(mlp(4, 6, 3), data, mlp(4, 5, 4))


def test_criteria_warn_too():
    teacher, data = trained()
    soft = Softmax(teacher)
    for measure in (criteria.evaluate, criteria.cross_entropy, criteria.predict):
        assert the_warning(lambda m=measure: m(soft, data)).startswith("model: its outputs are")
    noise = phiopt.Corruption(0.3)
    assert "low= and high=" in the_warning(lambda: criteria.robustness(teacher, data, noise))
    assert "low= and high=" in the_warning(lambda: criteria.corruption_curve(teacher, data))
    outer = phiopt.OuterLoss(data, neighbourhood=noise)
    message = the_warning(lambda: outer.of(teacher, 0))
    assert message.startswith("outer.neighbourhood: Corruption")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        criteria.accuracy(soft, data)
        criteria.evaluate(nn.Identity(), (torch.eye(3), torch.arange(3)))
        criteria.corruption_curve(teacher, data, low=-9, high=9)


def test_warnings_of_other_verbs_stand_at_the_users_line():
    def normed(width):
        return nn.Sequential(nn.Linear(4, width), nn.LayerNorm(width), nn.Linear(width, 2))

    message = the_warning(lambda: phiopt.grow(normed(3), normed(5), "zero-out", verify=True))
    assert message.startswith("fill='zero-out' did not keep the function")


def test_warnings_can_be_filtered():
    teacher, data = on_bytes()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "neighbourhood:", phiopt.PhioptWarning)
        solve(teacher, data)
    assert caught == []
