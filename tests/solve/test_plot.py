"""The picture of a solution shows its terms over the steps, the judges' values and the work."""

from dataclasses import replace

import pytest
import torch

import phiopt
from tests.bad import DATA, LAMBDAS, STUDENT, TEACHER


@pytest.fixture(scope="module")
def solution():
    solver = phiopt.TorchOpt(steps=20, batch_size=4)
    return phiopt.initialize(TEACHER, STUDENT, LAMBDAS, DATA, solver=solver)


def test_terms_are_parts_of_the_objective(solution, tmp_path):
    figure = solution.plot(tmp_path / "solution.png")
    assert (tmp_path / "solution.png").stat().st_size > 1000
    steps, ends, work = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in steps.get_lines()}
    assert list(lines)[:-1] == ["objective", "task", "proximity", "noise", "curvature"]
    parts = torch.tensor([list(lines[n]) for n in ("task", "proximity", "noise", "curvature")])
    torch.testing.assert_close(parts.sum(0), torch.tensor(list(lines["objective"])))
    judged = list(lines)[-1]
    assert judged.startswith("judged")
    assert lines[judged][0] == solution.start_objective
    assert len(lines[judged]) == 1 + sum("held_out" in row for row in solution.history)
    assert [t.get_text() for t in ends.get_xticklabels()] == list(lines)[1:5]
    assert "20" in work.texts[0].get_text()
    assert steps.get_xlabel()
    assert steps.get_ylabel()


def test_what_is_missing_is_left_out(solution):
    assert replace(solution, certificate=None).plot()
    assert replace(solution, history=[]).plot()
    frozen = phiopt.LBFGS(steps=2, batch_size=4)
    options = {"solver": frozen, "throw": False, "certificate": None}
    few = phiopt.initialize(TEACHER, STUDENT, (0.5, 0.5, 0, 0), DATA, **options)
    labels = [line.get_label() for line in few.plot().axes[0].get_lines()]
    assert labels[:3] == ["objective", "task", "proximity"]
    with pytest.raises(ValueError, match=r"path: got .*must end in one of"):
        solution.plot("solution.xyz")
