"""What a call shows on a terminal: its phases, and a line before a long solve."""

import io
import re
from functools import partial

import pytest
import torch
from tqdm import tqdm

import phiopt
from phiopt import _progress
from phiopt.objective import Objective
from phiopt.solve import LBFGS, TorchOpt, forecast
from tests.solutions import QUARTERS, X, Y, solved, student, teacher

SOLVER = TorchOpt(steps=6, batch_size=16, check_every=2)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(_progress, "tqdm", partial(tqdm, file=terminal, mininterval=0))
    return terminal


def phases(terminal):
    """The phases in their order, each once where it follows itself."""
    names = [line.split("φ: ")[1] for line in terminal.getvalue().split("\r") if "φ: " in line]
    names = [name.split(":")[0].split("[")[0].strip() for name in names]
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


def test_the_phases_of_a_call(terminal):
    solved(solver=SOLVER, progress=True)
    actual = phases(terminal)
    assert actual[:3] == ["checking", "mapping", "checking"]
    order = ["scaling", "validating", "solving", "validating", "certifying"]
    places = [actual.index("scaling")]
    for name in order[1:]:
        places.append(actual.index(name, places[-1]))
    assert "6/6" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()  # of the certificate
    assert "timing" not in actual[-1]


def test_the_phases_of_a_solver_on_a_frozen_sample(terminal):
    solved(solver=LBFGS(steps=5, draws=1), progress=True, throw=False)
    assert phases(terminal)[-2:] == ["solving", "certifying"]


@pytest.mark.parametrize("progress", [True, False])
def test_nothing_is_shown_in_a_pipe(monkeypatch, capsys, progress):
    monkeypatch.setattr(forecast, "LONG", 0.0)
    solved(solver=SOLVER, progress=progress)
    assert capsys.readouterr() == ("", "")


def test_a_quiet_call_on_a_terminal(terminal):
    solved(solver=SOLVER)
    assert terminal.getvalue() == ""


def test_a_long_solve_is_announced(monkeypatch, terminal):
    monkeypatch.setattr(forecast, "_timed", lambda call: 2.0)
    solved(solver=SOLVER, progress=True)
    (line,) = [
        line for line in terminal.getvalue().replace("\r", "\n").split("\n") if "about" in line
    ]
    assert re.fullmatch(r"φ: about \d+ (s|min): \w+ \d+ s, \w+ \d+ s", line.strip())


def test_a_solver_knows_its_work(monkeypatch):
    problem = phiopt.pose(teacher(), student(), QUARTERS, (X, Y))
    values, plain = [], Objective.evaluate
    monkeypatch.setattr(Objective, "evaluate", lambda *given: (values.append(1), plain(*given))[1])
    gradients = problem.solve(solver=SOLVER, certificate=None).stats.gradient
    assert SOLVER.work(problem.objective) == (gradients, len(values))


def test_a_short_one_is_not(terminal):
    solved(solver=SOLVER, progress=True)
    assert "about" not in terminal.getvalue()


@pytest.mark.parametrize("options", [{}, {"curvature": phiopt.Frobenius(every=3)}], ids=str)
def test_a_bar_does_not_change_the_result(monkeypatch, terminal, options):
    monkeypatch.setattr(forecast, "LONG", 0.0)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(X, Y), batch_size=16, shuffle=True
    )
    for data in ((X, Y), loader):
        quiet = solved(solver=SOLVER, data=data, **options)
        shown = solved(solver=SOLVER, data=data, progress=True, **options)
        assert quiet.history == shown.history
        assert quiet.stats.gradient == shown.stats.gradient
        assert "about" in terminal.getvalue()
        terminal.truncate(0)


def test_without_a_bar_no_gradient_is_timed(monkeypatch):
    calls, plain = [], Objective.value_and_grad
    monkeypatch.setattr(
        Objective, "value_and_grad", lambda *given: (calls.append(1), plain(*given))[1]
    )
    problem = phiopt.pose(teacher(), student(), QUARTERS, (X, Y))
    calls.clear()
    solution = problem.solve(solver=SOLVER, certificate=None, progress=True)
    assert len(calls) == solution.stats.gradient == 6


def test_the_bar_of_a_call_is_closed_when_it_fails(terminal):
    with pytest.raises(ValueError, match="data: empty"):
        solved(data=(X[:0], Y[:0]), progress=True)
    assert not _progress.shown()
