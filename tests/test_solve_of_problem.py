"""A problem posed once: its solves are what `initialize` gives, whatever varies from one to the next."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from phiopt.initialize import initialize
from phiopt.objective import Gaussian, Uniform
from phiopt.pose import pose
from tests.cases import flatten, mlp, parameters
from tests.posing import CENTRE, SOLVER, X, Y


def test_many_points_of_a_problem_are_what_initialize_gives():
    small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    options = {"neighbourhood": Gaussian(0.3), "classes": (2, 0), "restrict_classes": True}
    points = torch.tensor([[0.25] * 4, [0.3, 0.3, 0.4, 0.0]], dtype=torch.float64)
    problem = pose(small, large, CENTRE, (X, Y), batch_size=16, seed=5, **options)
    first, second = problem.solve_many(points, solver=SOLVER)
    for point, ours in zip(points, (first, second), strict=True):
        theirs = initialize(small, large, point.tolist(), (X, Y), solver=SOLVER, seed=5, **options)
        torch.testing.assert_close(flatten(ours.params), flatten(theirs.params))
        assert ours.objective == pytest.approx(theirs.objective)
        assert ours.terms == pytest.approx(theirs.terms)


class Signs:
    """A neighbourhood of x and -x."""

    def draw(self, inputs, generator):
        return (torch.ones_like(inputs)[None], -torch.ones_like(inputs)[None])

    def perturb(self, inputs, draw):
        return inputs * torch.cat(draw)


class TestPosedOnce:
    def test_a_solve_is_what_initialize_gives(self):
        small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
        problem = pose(small, large, CENTRE, (X, Y), batch_size=16, seed=5)
        options = {"solver": SOLVER, "seed": 5}
        for weights, delta in ((CENTRE, 0.1), ((0.5, 0.2, 0.3, 0.0), 0.4), (CENTRE, 0.1)):
            ours = problem.solve(weights, delta=delta, solver=SOLVER)
            around = Uniform(delta)
            theirs = initialize(small, large, weights, (X, Y), neighbourhood=around, **options)
            assert torch.equal(flatten(ours.params), flatten(theirs.params))
            assert ours.terms == theirs.terms
            assert ours.map is problem.map
        again = problem.solve(solver=SOLVER, seed=6)
        assert not torch.equal(flatten(again.params), flatten(ours.params))

    def test_a_loader_is_read_from_its_beginning_by_each_solve(self):
        own = torch.Generator().manual_seed(1)
        loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True, generator=own)
        problem = pose(mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2), CENTRE, loader)
        first, other, again = (problem.solve(solver=SOLVER, seed=seed) for seed in (0, 1, 0))
        assert torch.equal(flatten(first.params), flatten(again.params))
        assert not torch.equal(flatten(first.params), flatten(other.params))

    def test_a_start_takes_along_what_is_not_solved_for(self):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
        student[3].bias.requires_grad_(False)
        teacher = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2))
        data = X.float(), Y
        start = {**dict(student.named_parameters()), **dict(student.named_buffers())}
        start = {n: v.detach() * 1.5 if v.is_floating_point() else v for n, v in start.items()}
        problem = pose(teacher, student, CENTRE, data, scale="paper", batch_size=16)
        before = parameters(problem.student)["3.bias"]
        ours = problem.solve(start=start, solver=SOLVER)
        options = {"start": start, "solver": SOLVER, "scale": "paper"}
        theirs = initialize(teacher, student, CENTRE, data, **options)
        torch.testing.assert_close(flatten(ours.params), flatten(theirs.params))
        assert torch.equal(ours.student[3].bias, start["3.bias"])
        assert torch.equal(ours.student[1].running_mean, start["1.running_mean"])
        assert torch.equal(problem.student[3].bias, before)

    def test_a_map_is_taken_and_given_back(self):
        small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
        first = initialize(small, large, CENTRE, (X, Y), classes=(2, 0), solver=SOLVER)
        again = initialize(small, large, CENTRE, (X, Y), map=first.map, solver=SOLVER)
        assert again.map is first.map
        assert torch.equal(flatten(first.params), flatten(again.params))
        with pytest.raises(ValueError, match=r"^classes=\(0, 1\) contradict map="):
            pose(small, large, CENTRE, (X, Y), map=first.map, classes=(0, 1))
        with pytest.raises(ValueError, match=r"^map= belongs to other models"):
            pose(small, mlp(4, 6, 3), CENTRE, (X, Y), map=first.map)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            (
                {"lambdas": CENTRE},
                ValueError,
                "^lambdas.curvature: got 0.25, must be the number 0: .*posed",
            ),
            ({"delta": -1.0}, ValueError, "^delta: got -1"),
            ({"delta": "wide"}, TypeError, "^delta: got 'wide'"),
            ({"start": "zero"}, TypeError, "^start: got 'zero', must be Params"),
            ({"start": {}}, ValueError, "^start: lacks 0.weight"),
            ({"seed": -1}, ValueError, "^seed: got -1"),
            ({"solver": 3}, TypeError, "^solver: got 3|^solver: got int"),
            ({"restarts": -1}, ValueError, "^restarts: got -1"),
            ({"throw": 1}, TypeError, "^throw: got 1"),
        ],
    )
    def test_bad_arguments_are_named(self, options, error, message):
        small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
        problem = pose(small, large, (0.4, 0.3, 0.3, 0.0), (X, Y))
        with pytest.raises(error, match=message):
            problem.solve(**options)

    def test_a_neighbourhood_without_delta_takes_none(self):
        around = Signs()
        problem = pose(mlp(4, 3, 2), mlp(4, 5, 2), CENTRE, (X, Y), neighbourhood=around)
        with pytest.raises(ValueError, match=r"^delta: got 0.2, must be None"):
            problem.solve(delta=0.2)
