"""What a user's own code sees under mypy --strict."""

import re
import subprocess
import sys

import pytest

import phiopt

CODE = """
import torch
from torch import Tensor, nn

import phiopt


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[:, 0] - targets).square()


def lift(x: Tensor) -> Tensor:
    return torch.cat([x, x], 1)


def student(teacher: nn.Module, larger: nn.Module, data: phiopt.Source) -> phiopt.Params:
    own: phiopt.Loss = loss
    psi: phiopt.Lift = lift
    problem = phiopt.pose(teacher, larger, (0.5, 0.5, 0.0, 0.0), data, loss=own, lift=psi)
    solution = problem.solve(solver=phiopt.TorchOpt(steps=3), adjoint=phiopt.Replay())
    reveal_type(solution.objective)
    return solution.params


def wrong(teacher: nn.Module) -> phiopt.Solution:
    return phiopt.initialize(teacher, 3, (0.5, 0.5, 0.0, 0.0))


def misspelt() -> None:
    phiopt.initialise()


def public() -> None:
"""


@pytest.mark.slow
def test_strict_mypy_checks_calls_and_knows_results(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(CODE + "".join(f"    phiopt.{name}\n" for name in phiopt.__all__))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(str(file))]
    assert len(lines) == 3, done.stdout + done.stderr
    assert lines[0].endswith('float"')
    assert re.search(
        r'incompatible type "int"; expected "?Module', lines[1]
    )  # quoted by some versions
    assert 'has no attribute "initialise"' in lines[2]
