"""The problem by itself: what many points are solved from is what `initialize` solves."""

import pytest
import torch
import torchopt
from torch import nn

from phiopt.initialize import initialize
from phiopt.objective import Gaussian, Lambdas
from phiopt.problem import problem
from phiopt.solve import TorchOpt, solve_many
from tests.cases import flatten, generator, mlp, randn

X, Y = randn(60, 4, seed=3), torch.randint(2, (60,), generator=generator(4))
SOLVER = TorchOpt(torchopt.adam(2e-2), steps=8, batch_size=16, check_every=4)
CENTRE = Lambdas(0.25, 0.25, 0.25, 0.25)


def test_many_points_of_a_problem_are_what_initialize_gives():
    small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    options = {"neighbourhood": Gaussian(0.3), "classes": (2, 0), "restrict_classes": True}
    points = torch.tensor([[0.25] * 4, [0.3, 0.3, 0.4, 0.0]], dtype=torch.float64)
    posed = problem(small, large, CENTRE, (X, Y), seed=5, **options).relative(16, 5).posed(5)
    ((first, second),) = solve_many(SOLVER, [posed], points)
    for point, ours in zip(points, (first, second), strict=True):
        theirs = initialize(small, large, point.tolist(), (X, Y), solver=SOLVER, seed=5, **options)
        torch.testing.assert_close(flatten(ours.params), flatten(theirs.params))
        assert ours.objective == pytest.approx(theirs.objective)
        assert ours.terms == pytest.approx(theirs.terms)


def test_what_is_not_solved_for_is_constant():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    student[3].bias.requires_grad_(False)
    teacher = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2))
    posed = problem(teacher, student, CENTRE, (X.float(), Y)).posed(0)
    names = {"1.running_mean", "1.running_var", "1.num_batches_tracked", "3.bias"}
    assert posed.constants.keys() == names
    assert not posed.constants.keys() & posed.start.keys()
