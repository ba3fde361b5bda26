"""`learn` where a trial fails, around modes and loaders of the caller's, and by every adjoint."""

from dataclasses import replace
from math import isfinite

import pytest
import torch
import torchopt
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from phiopt.bilevel import CG, AdjointError, Implicit, Replay, Unroll
from phiopt.bilevel.outer import OuterLoss, Training
from phiopt.bilevel.search import Mirror, Optuna, SearchStatus
from phiopt.learn import learn
from phiopt.objective import Corruption, Gaussian
from phiopt.solve import LBFGS, SolveError, Status, TorchOpt
from tests.bilevel.problems import Refused
from tests.cases import generator, mlp, randn
from tests.learning import FEW, QUICK, V, X, Y, learned, squares

ONE = Mirror(budget=1)


@pytest.mark.slow
def test_slopes_are_there_without_gradient_mode():
    small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    options = {"solver": QUICK, "search": FEW, "start": "uniform"}
    options["parameters"] = ("lambdas", "theta")
    expected = learn(small, large, (X, Y), OuterLoss(V), **options).path
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert learn(small, large, (X, Y), OuterLoss(V), **options).path == expected


@pytest.mark.slow
@pytest.mark.parametrize("start", [0.5, 1.0])
def test_optuna_keeps_to_the_neighbourhoods_bound(start):
    result = learned(
        search=Optuna(trials=8), neighbourhood=Corruption(start), parameters=("lambdas", "delta")
    )
    assert result.status is SearchStatus.BUDGET_SPENT
    assert len(result.path) == 8
    assert all(start / 3 - 1e-9 <= trial.delta <= 1 for trial in result.path)


class Uneven(torch.utils.data.Dataset):
    """Cannot be read any more after so many items; of an input shape that cannot be guessed."""

    def __init__(self, reads=None):
        self.left = reads

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise OSError("the disk is gone")
        return X[i], Y[i]


def reads():
    """Items of one solve."""
    data = Uneven(10**9)
    learn(mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2), data, OuterLoss(V), solver=QUICK, search=ONE)
    return 10**9 - data.left


@pytest.mark.parametrize("search", [Mirror(budget=14), Optuna(trials=5)], ids=["mirror", "optuna"])
@pytest.mark.parametrize("share", [1.4, pytest.param(1.9, marks=pytest.mark.slow)])
def test_data_that_fail_midway_end_the_search_and_the_best_is_kept(search, share):
    """While a trial is begun, or amid its steps."""
    models = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    data = Uneven(int(share * reads()))
    result = learn(*models, data, OuterLoss(V), solver=QUICK, search=search)
    assert result.status is SearchStatus.TRIAL_FAILED
    assert "the disk is gone" in f"{result.error}{result.error.__cause__}"
    assert isfinite(result.outer)
    assert result.outer == result.path[0].outer
    assert "TRIAL_FAILED" in str(result)
    assert all(isfinite(t.outer) == (t.status is not Status.DATA_FAILED) for t in result.path)


def test_data_that_fail_in_the_first_solve_are_an_error():
    models = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    with pytest.raises(SolveError, match="DATA_FAILED") as caught:
        learn(*models, Uneven(int(0.9 * reads())), OuterLoss(V), solver=QUICK, search=ONE)
    assert str(caught.value.__cause__) == "the disk is gone"


def test_a_trial_that_raises_does_not_lose_the_others():
    class Once(Gaussian):
        def perturb(self, inputs, draw):
            if float(self.delta) != 0.3:
                raise RuntimeError("not here")
            return super().perturb(inputs, draw)

    result = learned(
        search=Optuna(trials=4), neighbourhood=Once(0.3), parameters=("lambdas", "delta")
    )
    assert result.status is SearchStatus.TRIAL_FAILED
    assert str(result.error) == "not here"
    assert len(result.path) == 1
    with pytest.raises(RuntimeError, match="not here"):
        learned(neighbourhood=Once(0.2))


def test_a_chosen_solution_whose_solve_failed_is_said():
    diverging = replace(QUICK, optimizer=torchopt.sgd(1e3))
    with pytest.warns(
        UserWarning, match="learn: the chosen solution's own solve ended as DIVERGED"
    ):
        result = learned(solver=diverging, search=ONE)
    assert result.solution.status.failed
    assert "own solve ended as DIVERGED" in str(result)


def shuffled(data, seed):
    return DataLoader(TensorDataset(*data), 10, shuffle=True, generator=generator(seed))


@pytest.mark.parametrize("owned", [True, False], ids=["own generator", "global"])
def test_loaders_of_the_outer_loss_repeat_and_are_left_as_they_were(owned):
    d2 = randn(40, 4, seed=7), torch.randint(3, (40,), generator=generator(8))
    loaders = [
        shuffled(data, 9) if owned else DataLoader(TensorDataset(*data), 10, shuffle=True)
        for data in (V, d2, (V[0] + 1, V[1]))
    ]
    outer = OuterLoss(
        loaders[0],
        training=Training(loaders[1], torchopt.sgd(0.1), steps=3, batch_size=10),
        batch_size=10,
    )
    states = [torch.get_rng_state(), *(it.generator.get_state() for it in loaders if owned)]
    paths = [learned(outer, test=loaders[2], search=ONE).path for _ in range(2)]
    after = [torch.get_rng_state(), *(it.generator.get_state() for it in loaders if owned)]
    assert paths[0] == paths[1]
    assert all(map(torch.equal, states, after))


def test_theta_is_learned_with_a_data_set_whose_shape_cannot_be_guessed():
    def net(width, classes):
        return nn.Sequential(
            nn.Unflatten(1, (2, 2)),
            nn.Linear(2, width),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(2 * width, classes),
        ).double()

    torch.manual_seed(0)
    result = learn(
        net(3, 2),
        net(5, 3),
        TensorDataset(X, Y),
        OuterLoss(V),
        parameters=("lambdas", "theta"),
        start="uniform",
        solver=QUICK,
        search=ONE,
    )
    assert isfinite(result.outer)


@pytest.mark.parametrize(
    ("adjoint", "solver", "share"),
    [
        # Six small steps lower E a little; rounding is ten orders below.
        (Unroll(last=2), QUICK, 0.99999),
        (Implicit(CG(1e-8)), LBFGS(steps=500, tol=1e-6, draws=1), 0.95),
    ],
    ids=["last", "implicit"],
)
def test_other_adjoints_lower_the_outer_loss(adjoint, solver, share):
    """Linear models and squares: one minimiser, well conditioned, on every processor."""
    result = learn(
        mlp(4, 2, seed=1),
        mlp(4, 3, seed=2),
        (X, Y),
        OuterLoss(V, loss=squares),
        solver=solver,
        search=replace(FEW, adjoint=adjoint),
        loss=squares,
        lambdas=(0.4, 0.4, 0.2, 0),
    )
    assert result.path[0].differentiated
    assert not any(trial.mark for trial in result.path)
    assert result.outer < share * result.start_outer


SIGNS = (X[:, 0] > 0).long()


DESCENT = TorchOpt(torchopt.sgd(0.2), steps=400, batch_size=None, fresh=False, tol=1e-3)


def at_a_saddle(search, solver):
    """All weights are zero, so that each solve moves biases alone, by symmetry and exactly. New weights
    are not tied, and labels that depend on x make the Hessian's block between two layers large.
    """
    teacher, student = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    with torch.no_grad():
        for p in teacher.parameters():
            p.zero_()
    return learn(
        teacher,
        student,
        (X, SIGNS),
        OuterLoss((V[0], (V[0][:, 0] > 0).long()), loss=squares),
        solver=solver,
        search=search,
        loss=squares,
        lambdas=(0.5, 0.3, 0.2, 0),
        start={name: torch.zeros_like(p) for name, p in student.named_parameters()},
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:learn. the chosen solution's own solve")  # of its step limit
@pytest.mark.parametrize(
    ("search", "solver"),
    [(Mirror(budget=6), DESCENT), (Optuna(trials=3), LBFGS(steps=1500, tol=1e-6, draws=1))],
    ids=["mirror", "optuna"],
)
def test_a_trial_that_ends_at_a_saddle_is_repeated_from_a_start_nearby(search, solver):
    actual = at_a_saddle(search, solver)
    first, second = actual.path[:2]
    assert first.status is Status.SADDLE
    assert first.mark == "SADDLE"
    assert second.again
    assert second.lambdas == first.lambdas
    assert second.status is not Status.SADDLE
    assert second.outer < 0.95 * first.outer
    assert actual.outer <= second.outer
    assert "SADDLE" in str(actual)
    assert "again" in str(actual)
    assert len({trial.lambdas for trial in actual.path}) > 1


class Refusing(Replay):
    """No derivative in the first ``calls`` solves, or in the derivatives of all."""

    def __init__(self, calls, when):
        super().__init__()
        object.__setattr__(self, "state", [calls, when])

    def solve(self, *args, **options):
        calls, when = self.state
        self.state[0] -= 1
        outcome = super().solve(*args, **options)
        if calls > 0 and when == "solve":
            raise AdjointError("refused")
        if calls > 0:
            return replace(outcome, params={n: Refused.apply(p) for n, p in outcome.params.items()})
        return outcome


@pytest.mark.parametrize("when", [pytest.param("solve", marks=pytest.mark.slow), "derivative"])
@pytest.mark.parametrize("calls", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_refused_derivative_does_not_end_the_search(calls, when):
    result = learned(search=Mirror(budget=8, adjoint=Refusing(calls, when)))
    assert isfinite(result.outer)
    assert any(trial.differentiated for trial in result.path)
    assert "no derivative" in str(result)
    assert any(trial.error == "refused" for trial in result.path)
    assert len({trial.lambdas for trial in result.path}) > 1


@pytest.mark.slow
def test_where_nothing_has_a_derivative_the_refusal_is_raised():
    with pytest.raises(AdjointError, match="refused"):
        learned(search=Mirror(budget=12, adjoint=Refusing(10**6, "solve")))
    with pytest.raises(AdjointError, match="refused"):
        learned(search=Mirror(budget=6, restarts=1, adjoint=Refusing(10**6, "derivative")))
