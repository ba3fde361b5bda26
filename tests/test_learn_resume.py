"""A search that is cut off anywhere and called again gives, bit for bit, what it would have given."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from phiopt.bilevel import CG, AdjointError, Implicit, Replay, records
from phiopt.bilevel.outer import OuterLoss
from phiopt.bilevel.search import Mirror, Optuna, SearchStatus
from phiopt.objective import Gaussian
from phiopt.solve import LBFGS
from tests.bilevel.problems import Refused
from tests.cases import generator, mlp, parameters
from tests.learning import V, X, Y, squares
from tests.searches import Stop, call, content, counted_solves


@pytest.fixture
def solves(monkeypatch):
    return counted_solves(monkeypatch)


def cut_off_at_every_write(directory, monkeypatch, solve):
    """The search, cut off right after each of its writes or right before it, and called again until it ends."""
    real = records.write_text
    for number in range(200):

        def write(path, text, lost=number % 3 == 0):
            if not lost:
                real(path, text)
            raise Stop

        monkeypatch.setattr(records, "write_text", write)
        try:
            return solve(directory)
        except Stop:
            pass
    raise AssertionError("it does not end")


CASES = {
    "replay": {
        "parameters": ("lambdas", "delta", "theta"),
        "neighbourhood": Gaussian(0.3),
        "start": "uniform",
        "theta": 0.1,
    },
    "implicit": {
        "models": (mlp(4, 2, seed=1), mlp(4, 3, seed=2)),
        "lambdas": (0.4, 0.4, 0.2, 0),
        "solver": LBFGS(steps=500, tol=1e-6, draws=1),
        "search": Mirror(budget=5, adjoint=Implicit(CG(1e-8))),
        "loss": squares,
        "outer": OuterLoss(V, loss=squares),
    },
    "optuna": {"search": Optuna(trials=2)},
}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(CASES["replay"], id="replay"),
        pytest.param(CASES["implicit"], id="implicit", marks=pytest.mark.slow),
        pytest.param(CASES["optuna"], id="optuna"),
    ],
)
def test_a_search_cut_off_anywhere_goes_on_to_the_same_bits(options, tmp_path, monkeypatch, solves):
    def solve(directory=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(directory, **options)

    whole = content(solve())
    actual = cut_off_at_every_write(tmp_path / "new" / "search", monkeypatch, solve)
    assert content(actual) == whole
    solves.clear()
    assert content(solve(tmp_path / "new" / "search")) == whole
    assert not solves


class Refusing(Replay):
    """No derivative from the start as it is; there is one from a start nearby."""

    def __init__(self, when):
        super().__init__()
        object.__setattr__(self, "state", (when, {}))

    def solve(self, solver, objective, start, *, seed, progress):
        when, seen = self.state
        outcome = super().solve(solver, objective, start, seed=seed, progress=progress)
        here = float(start["2.weight"].sum())
        if seen.setdefault("start", here) != here:
            return outcome
        if when == "solve":
            raise AdjointError("refused")
        return replace(outcome, params={n: Refused.apply(p) for n, p in outcome.params.items()})


@pytest.mark.slow
@pytest.mark.parametrize("when", ["solve", "derivative"])
def test_refused_derivatives_and_second_tries_are_kept(when, tmp_path, monkeypatch):
    search = Mirror(budget=6, adjoint=Refusing(when))

    def solve(directory=None):
        return call(directory, search=search)

    whole = solve()
    assert [trial.again for trial in whole.path[:2]] == [False, True]
    assert whole.path[0].error == "refused"
    assert whole.path[1].differentiated
    assert content(cut_off_at_every_write(tmp_path, monkeypatch, solve)) == content(whole)


def test_a_search_that_ends_in_an_error_ends_in_it_again(tmp_path, solves):
    def loss(outputs, targets):
        return outputs.sum(1) * torch.inf

    class Never(Replay):
        def solve(self, *args, **options):
            raise AdjointError("never")

    for name, options, error in (
        ("finite", {"outer": OuterLoss(V, loss=loss)}, FloatingPointError),
        ("derivative", {"search": Mirror(budget=2, adjoint=Never())}, AdjointError),
    ):
        with pytest.raises(error) as first:
            call(tmp_path / name, **options)
        count = len(solves)
        with pytest.raises(error) as second:
            call(tmp_path / name, **options)
        assert str(first.value) == str(second.value)
        assert len(solves) == count


class Failing(torch.utils.data.Dataset):
    """Fails from some item on, until it is mended."""

    def __init__(self):
        self._left = 10**9

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        self._left -= 1
        if self._left < 0:
            raise OSError("the disk is gone")
        return X[i], Y[i]


def test_a_trial_that_raised_is_tried_again(tmp_path):
    data, search = Failing(), Optuna(trials=3)
    whole = content(call(data=data, search=search))
    data._left = int(0.5 * (10**9 - data._left))
    broken = call(tmp_path, data=data, search=search)
    assert broken.status is SearchStatus.TRIAL_FAILED
    data._left = 10**9
    assert content(call(tmp_path, data=data, search=search)) == whole


@pytest.mark.slow
def test_a_shuffling_loader_repeats(tmp_path, monkeypatch):
    def solve(directory=None):
        loader = DataLoader(TensorDataset(X, Y), 16, shuffle=True, generator=generator(7))
        return call(directory, data=loader, search=Mirror(budget=5))

    actual = cut_off_at_every_write(tmp_path, monkeypatch, solve)
    assert content(actual) == content(solve())


def test_the_outer_loss_is_that_of_the_student_with_all_that_is_not_solved_for():
    """A frozen layer of the start moves with θ."""
    actual = call(
        parameters=("lambdas", "theta"), start="uniform", theta=0.5, search=Optuna(trials=3)
    )
    best = [trial.outer for trial in actual.path].index(actual.outer)
    assert best > 0
    again = OuterLoss(V).of(actual.solution.student, 0)(parameters(actual.solution.student))
    assert float(again) == pytest.approx(actual.outer, rel=1e-12)
