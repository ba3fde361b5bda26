"""`checkpoint` and `resume`: what is refused, by name and before any work."""

import os
import re

import pytest
import torch
import torchopt
from torch import nn

import phiopt
from phiopt.solve import LBFGS, NewtonCG, TorchOpt
from tests.extra_terms import Far
from tests.solutions import CROSS_ENTROPY, QUARTERS, X, Y, solved, student, teacher

SOLVER = TorchOpt(steps=3, batch_size=16)
OPTIMIZER = torchopt.adam(1e-3)
MAP = phiopt.GrowthMap.between(teacher(), student())


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The checkpoint of a solve."""
    path = tmp_path_factory.mktemp("solve") / "state"
    solved(solver=SOLVER, checkpoint=path)
    return path


CHANGES = {
    "lambdas.task": {"lambdas": (0.3, 0.2, 0.25, 0.25)},
    "solver.steps": {"solver": TorchOpt(steps=4, batch_size=16)},
    "solver.optimizer": {"solver": TorchOpt(phiopt.normalised(OPTIMIZER), 3, 16)},
    "seed": {"seed": 1},
    "scale": {"scale": "paper"},
    "micro_batch": {"micro_batch": 8},
    "start.0.weight": {"start": "zero"},
    "data.0": {"data": (X[:30], Y[:30])},
    "loss": {"loss": CROSS_ENTROPY},
    "lift": {"lift": nn.Identity()},
    "classes": {"classes": (2, 0)},
    "neighbourhood.delta": {"neighbourhood": phiopt.Uniform(0.2)},
    "curvature.probes": {"curvature": phiopt.Frobenius(probes=2)},
    "extra.far.weight": {"extra": [(0.1, Far(phiopt.Uniform(0.3)))]},
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_argument_is_named(path, name):
    with pytest.raises(
        ValueError, match=rf"^resume: .*state is of a solve .*{re.escape(name)}: got .*, was "
    ):
        solved(**{"solver": SOLVER, "resume": path} | CHANGES[name])


def test_other_models_are_named(path):
    other = teacher()
    with torch.no_grad():
        other[0].bias += 1
    with pytest.raises(ValueError, match=r"resume: .*teacher\.0\.bias: got .*, was "):
        phiopt.initialize(other, student(), QUARTERS, (X, Y), solver=SOLVER, resume=path)
    smooth = student()
    smooth[1] = nn.Softplus()
    with pytest.raises(ValueError, match=r"resume: .*student: got Sequential .*, was Sequential "):
        phiopt.initialize(teacher(), smooth, QUARTERS, (X, Y), solver=SOLVER, resume=path, map=MAP)


def test_what_does_not_change_the_solve_may_change(path):
    assert solved(solver=SOLVER, resume=path, certificate=None, throw=False).certificate is None


DAMAGES = {
    "cut short": lambda data: data[: len(data) // 2],
    "another byte": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "another argument": lambda data: data.replace(rb"seed\": \"0", rb"seed\": \"1"),
    "empty": lambda data: b"",
    "a text": lambda data: b"no checkpoint",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(path, tmp_path, damage):
    other = tmp_path / "damaged"
    other.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=r"resume: .*damaged"):
        solved(solver=SOLVER, resume=other)


def test_another_kind_of_file_is_named(tmp_path):
    solved(solver=SOLVER).save(tmp_path / "solution")
    with pytest.raises(ValueError, match=r"resume: .*holds solution, not a checkpoint of a solve"):
        solved(solver=SOLVER, resume=tmp_path / "solution")


def test_there_must_be_a_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"resume: .*away does not exist; leave resume=None"
    ):
        solved(resume=tmp_path / "away")
    with pytest.raises(IsADirectoryError, match=r"resume: .* cannot be read"):
        solved(resume=tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for wrong in (tmp_path / "pipe", "a\0b"):
        with pytest.raises(ValueError, match=r"resume: got '.*', must be a file"):
            solved(resume=wrong)
    for wrong in (3, "", []):
        with pytest.raises((TypeError, ValueError), match=r"resume: got .*, must be a path"):
            solved(resume=wrong)


def test_the_file_must_be_one_that_can_be_written(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"checkpoint: got '.*', a folder, must be a file"):
        solved(checkpoint=tmp_path)
    with pytest.raises(TypeError, match=r"checkpoint: got 3, must be a path"):
        solved(checkpoint=3)


@pytest.mark.parametrize("solver", [LBFGS(), NewtonCG()], ids=["LBFGS", "NewtonCG"])
@pytest.mark.parametrize("name", ["checkpoint", "resume"])
def test_a_solver_without_checkpoints_says_so(path, name, solver):
    kind = type(solver).__name__
    with pytest.raises(TypeError, match=rf"^{name}: must be None with {kind}, which cannot go on"):
        solved(solver=solver, **{name: path})


def test_an_adjoint_needs_the_whole_path(path):
    with pytest.raises(ValueError, match=r"checkpoint: must be None with an adjoint"):
        solved(checkpoint=path, adjoint=phiopt.Replay())
