"""A search on made-up solves: cut off before and after every write, it goes on to the same bits."""

import os
from math import inf, nan
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from phiopt.bilevel import AdjointError, records
from phiopt.bilevel.nudge import Nudged
from phiopt.bilevel.replay import Replay
from phiopt.bilevel.run import Run
from phiopt.bilevel.search import Mirror, SearchStatus
from phiopt.bilevel.space import Space
from phiopt.objective import Lambdas
from phiopt.solve import Certificate, Solution, Stats, Status
from tests.bilevel.problems import Refused


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch):
    """Its time would be most of these tests'."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


START = {
    "lambdas": torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64),
    "delta": torch.tensor(0.3, dtype=torch.float64),
}
STUDENT = nn.Linear(6, 1, bias=False).double()
CERTIFICATE = Certificate(0.1, 0.1, 1.0, None, 1.0, 1.0, 0.0, {}, {}, 1, {})


class Stop(BaseException):
    pass


class Solver:
    """w1 = (λ, δ, 0), in fates that hang on the point alone; and how often it was asked."""

    def __init__(self, fates):
        self.fates, self.calls, self.numbers = fates, 0, {}

    def __call__(self, point, adjoint):
        self.calls += 1
        again = isinstance(adjoint, Nudged)
        key = (*point["lambdas"].tolist(), point["delta"].tolist(), again)
        fate = self.fates.get(self.numbers.setdefault(key, len(self.numbers)), "fine")
        if fate == "no derivative":
            raise AdjointError("none")
        if fate == "raises":
            raise RuntimeError("raised")
        size = 0.9 if again else 1.0
        w = torch.cat([point["lambdas"] * size, point["delta"][None], torch.zeros(1).double()])[
            None
        ]
        if fate in ("nan", "inf"):
            w = w * {"nan": nan, "inf": inf}[fate]
        if fate == "refused":
            w = Refused.apply(w)
        student = nn.Linear(6, 1, bias=False).double()
        with torch.no_grad():
            student.weight.copy_(w)
        return Solution(
            student=student,
            params={"weight": w},
            status=Status.SADDLE if fate == "saddle" else Status.BUDGET_SPENT,
            terms={"task": float(w.detach().sum())},
            start_terms={},
            objective=0.0,
            start_objective=0.0,
            scale="paper",
            divisors={},
            lambdas=Lambdas.of(point["lambdas"].detach()),
            certificate=CERTIFICATE,
            history=[],
            stats=Stats(2, 3, 4, 5.0, 0, 0.1),
        )


def loss(w, beside=None):
    target = torch.tensor([[0.1, 0.6, 0.1, 0.2, 0.5, 0.0]], dtype=torch.float64)
    return (w["weight"] - target).square().sum()


def search(solver, folder, budget=16):
    bar = SimpleNamespace(update=lambda: None, set_postfix=lambda **_: None)
    with records.opened(folder, {"a": "b"}, STUDENT) as kept:
        run = Run(solver, loss, Replay(), 0, bar, kept)
        return run.through(Mirror(budget=budget), Space(START, 0.01))


def content(actual):
    whole = [
        actual.path,
        actual.lambdas,
        actual.delta,
        actual.outer,
        actual.status,
        str(actual.error),
    ]
    return [*whole, actual.solution.params["weight"].tolist(), actual.solution.terms]


FATES = {
    "fine": {},
    "saddle": {0: "saddle", 4: "saddle"},
    "no derivative": {0: "no derivative"},
    "none twice": {0: "no derivative", 1: "no derivative"},
    "refused": {i: "refused" for i in (1, 2, 3, 4, 5)},
    "refused twice": {i: "refused" for i in (1, 2, 3, 4, 5, 6)},
    "infinite": {0: "inf", 2: "nan", 3: "inf", 6: "nan"},
    "raises": {3: "raises"},
    "raises in the descent": {5: "refused", 7: "raises"},
}


@pytest.mark.parametrize(
    ("name", "phase"), [*((name, 0) for name in FATES), ("fine", 1), ("refused", 1)]
)
def test_cut_off_at_every_write_it_goes_on_to_the_same_bits(name, phase, tmp_path, monkeypatch):
    """Every second write is lost, those with an even number or the others."""
    fates = FATES[name]
    numbers = Solver(fates)
    whole = search(numbers, None)
    assert any(trial.outer < inf for trial in whole.path)
    assert (whole.status is SearchStatus.TRIAL_FAILED) == ("raises" in fates.values())
    real = records.write_text

    def resumed(folder):
        solver = Solver(fates)
        solver.numbers = numbers.numbers  # fates hang on the point
        return search(solver, folder), solver.calls

    for number in range(200):

        def write(path, text, lost=(number + phase) % 2 == 0):
            if not lost:
                real(path, text)
            raise Stop

        monkeypatch.setattr(records, "write_text", write)
        try:
            result, _ = resumed(tmp_path)
            break
        except Stop:
            pass
    assert number > len(whole.path)
    assert content(result) == content(whole)
    monkeypatch.setattr(records, "write_text", real)
    result, calls = resumed(tmp_path)
    assert content(result) == content(whole)
    assert calls == sum(fate == "raises" for fate in fates.values())  # tried again
    assert [p.stem for p in (tmp_path / "solutions").iterdir()] == [
        f"{[trial.outer for trial in whole.path].index(whole.outer):04}"
    ]


@pytest.mark.parametrize("number", range(9))
def test_any_trial_or_solution_that_is_lost_is_made_again(number, tmp_path):
    whole = search(Solver({}), tmp_path)
    assert len(whole.path) > 8
    (tmp_path / "trials" / f"{number:04}.json").unlink()
    if number % 2:
        next((tmp_path / "solutions").iterdir()).unlink()
    assert content(search(Solver({}), tmp_path)) == content(whole)
    solver = Solver({})
    assert content(search(solver, tmp_path)) == content(whole)
    assert solver.calls == number % 2  # of the best, whose file is not made again


def test_a_search_that_asks_for_less_than_before_gives_the_best_of_it(tmp_path):
    """Nothing that a user does: the budget is among the arguments."""
    search(Solver({}), tmp_path, budget=16)
    assert content(search(Solver({}), tmp_path, budget=12)) == content(search(Solver({}), None, 12))


def test_records_read_back_what_was_kept(tmp_path):
    whole = search(Solver({0: "inf", 1: "refused", 2: "refused"}), tmp_path)
    with records.opened(tmp_path, {"a": "b"}, STUDENT) as kept:
        assert [kept.records[i].trial for i in range(len(whole.path))] == whole.path
