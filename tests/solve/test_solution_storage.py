"""A solution saved and loaded is the same solution, for the same module only."""

from copy import deepcopy
from dataclasses import astuple, fields

import pytest
import torch
from torch import nn

import phiopt


def net(hidden, classes):
    return nn.Sequential(
        nn.Linear(4, hidden), nn.BatchNorm1d(hidden), nn.Tanh(), nn.Linear(hidden, classes)
    )


@pytest.fixture
def solved():
    """A student other than the one given, and its solution."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher, student, other = net(3, 2), net(5, 3), net(5, 3)
        x, y = torch.randn(12, 4), torch.randint(2, (12,))
    lambdas = phiopt.Lambdas(0.4, 0.3, 0.2, 0.1)
    solver = phiopt.TorchOpt(steps=3, batch_size=6)
    solution = phiopt.initialize(
        teacher, student, lambdas, (x, y), solver=solver, neighbourhood=phiopt.Uniform(0.1),
        throw=False,
    )  # fmt: skip
    return other, solution


def test_a_loaded_solution_is_the_saved_one(solved, tmp_path):
    other, solution = solved
    before = {name: value.clone() for name, value in other.state_dict().items()}
    solution.save(tmp_path / "solution.safetensors")
    loaded = phiopt.Solution.load(tmp_path / "solution.safetensors", other)
    for field in fields(solution):
        if field.name not in ("student", "params", "lambdas", "map"):
            assert getattr(loaded, field.name) == getattr(solution, field.name), field.name
    # Lambdas divides by its sum, which is 1 up to rounding.
    assert astuple(loaded.lambdas) == pytest.approx(astuple(solution.lambdas), rel=1e-15)
    assert loaded.map is None
    assert str(loaded) == str(solution)
    assert loaded.params.keys() == solution.params.keys()
    assert all(torch.equal(loaded.params[name], p) for name, p in solution.params.items())
    kept = solution.student.state_dict()
    assert all(torch.equal(kept[name], v) for name, v in loaded.student.state_dict().items())
    assert all(torch.equal(before[name], v) for name, v in other.state_dict().items())


def test_another_student_is_refused_and_the_difference_named(solved, tmp_path):
    _, solution = solved
    solution.save(tmp_path / "solution.safetensors")
    with pytest.raises(ValueError, match=r"student's 0\.weight is \(6, 4\), not \(5, 4\)"):
        phiopt.Solution.load(tmp_path / "solution.safetensors", net(6, 3))
    with pytest.raises(ValueError, match=r"student has 4\.weight too"):
        phiopt.Solution.load(
            tmp_path / "solution.safetensors", nn.Sequential(*net(5, 3), nn.Linear(3, 1))
        )


def test_a_map_is_no_solution(solved, tmp_path):
    other, _ = solved
    phiopt.GrowthMap.between(other, deepcopy(other)).save(tmp_path / "map.safetensors")
    with pytest.raises(ValueError, match="holds growth map, not a solution"):
        phiopt.Solution.load(tmp_path / "map.safetensors", other)
