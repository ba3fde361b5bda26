"""Ctrl-C during a call: the best that was reached is not lost."""

import pytest
import torch
from torch.nn.functional import cross_entropy

import phiopt
from phiopt.objective import Objective
from phiopt.solve import LBFGS, Solution, Status
from tests.solutions import QUARTERS, QUICK, X, Y, solved, student, teacher

THREE = (0.4, 0.3, 0.3, 0)


def interrupted(monkeypatch, name, number, **options):
    """A call that is interrupted when a method of the objective is called for the ``number``-th time in the solve."""
    calls, plain = [], getattr(Objective, name)

    def counted(self, params, sample, *rest):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return plain(self, params, sample, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, name, counted)
        return solved(THREE, scale="paper", **options)


def loss_until(number):
    """Cross-entropy that is interrupted at its ``number``-th call, and the list of its calls."""
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return cross_entropy(outputs, targets, reduction="none")

    return loss, calls


@pytest.mark.parametrize("solver", [QUICK, LBFGS(draws=1, tol=1e-9)], ids=["torchopt", "lbfgs"])
def test_the_best_iterate_is_returned(monkeypatch, solver):
    options = {"solver": solver, "throw": False}
    solution = interrupted(monkeypatch, "value_and_grad", 6, **options)
    assert solution.status is Status.INTERRUPTED
    assert solution.status.failed
    assert isinstance(solution.error, KeyboardInterrupt)
    assert solution.certificate is None
    assert solution.objective <= solution.start_objective
    for name, p in solution.student.named_parameters():
        assert torch.equal(p, solution.params[name])
    assert "INTERRUPTED: The call was interrupted" in str(solution)


def test_the_interrupt_is_raised_and_holds_the_solution(monkeypatch):
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted(monkeypatch, "value_and_grad", 6)
    assert isinstance(caught.value.solution, Solution)
    assert caught.value.solution.status is Status.INTERRUPTED


def test_an_interrupt_of_the_certificate_keeps_what_was_solved(monkeypatch):
    whole = solved(THREE, scale="paper")
    steps = whole.stats.gradient
    solution = interrupted(monkeypatch, "value_and_grad", steps + 2, throw=False)
    assert solution.status is Status.INTERRUPTED
    assert solution.certificate is None
    assert solution.objective == whole.objective
    assert torch.equal(solution.params["0.weight"], whole.params["0.weight"])


def test_before_the_solve_there_is_nothing_to_keep(monkeypatch):
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted(monkeypatch, "evaluate", 1, throw=False)
    assert not hasattr(caught.value, "solution")


def test_one_can_go_on_from_it(monkeypatch, tmp_path):
    solution = interrupted(monkeypatch, "value_and_grad", 9, solver=LBFGS(draws=1), throw=False)
    solution.save(tmp_path / "solution.safetensors")
    again = Solution.load(tmp_path / "solution.safetensors", student())
    assert again.status is Status.INTERRUPTED
    start = dict(again.student.named_parameters())
    end = solved(THREE, start=start, scale="paper", solver=LBFGS(draws=1), throw=False)
    assert end.start_objective == pytest.approx(solution.objective, rel=1e-9)
    assert end.objective < solution.objective


def test_a_search_ends_at_once():
    loss, calls = loss_until(300)
    with pytest.raises(KeyboardInterrupt):
        phiopt.learn(
            teacher(),
            student(),
            (X, Y),
            phiopt.OuterLoss((X, Y)),
            loss=loss,
            lambdas=QUARTERS,
            solver=QUICK,
            search=phiopt.Optuna(trials=50),
        )
    assert len(calls) == 300


def test_many_solves_at_once_end_too():
    loss, calls = loss_until(20)
    problem = phiopt.pose(teacher(), student(), THREE, (X, Y), loss=loss, scale="paper")
    calls.clear()
    points = torch.tensor([THREE, (0.5, 0.5, 0, 0)])
    with pytest.raises(KeyboardInterrupt):
        problem.solve_many(points, solver=QUICK)
