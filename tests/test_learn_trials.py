"""`learn` where a trial fails, around modes and loaders of the caller's, and by every adjoint."""

from dataclasses import replace
from math import isfinite

import pytest
import torch
import torchopt
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from phiopt.bilevel import CG, Implicit, Unroll
from phiopt.bilevel.outer import OuterLoss, Training
from phiopt.bilevel.search import Mirror, Optuna, SearchStatus
from phiopt.learn import learn
from phiopt.objective import Corruption, Gaussian
from phiopt.solve import LBFGS, SolveError, Status
from tests.cases import generator, mlp, randn
from tests.test_learn import FEW, QUICK, V, X, Y
from tests.test_learn import learned as tried

ONE = Mirror(budget=1)


def test_slopes_are_there_without_gradient_mode():
    small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    options = {"solver": QUICK, "search": FEW, "start": "uniform"}
    options["parameters"] = ("lambdas", "theta")
    expected = learn(small, large, (X, Y), OuterLoss(V), **options).path
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert learn(small, large, (X, Y), OuterLoss(V), **options).path == expected


@pytest.mark.parametrize("start", [0.5, 1.0])
def test_optuna_keeps_to_the_neighbourhoods_bound(start):
    found = tried(
        search=Optuna(trials=8), neighbourhood=Corruption(start), parameters=("lambdas", "delta")
    )
    assert found.status is SearchStatus.BUDGET_SPENT
    assert len(found.path) == 8
    assert all(start / 3 - 1e-9 <= trial.delta <= 1 for trial in found.path)


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
@pytest.mark.parametrize("share", [1.4, 1.9])
def test_data_that_fail_midway_end_the_search_and_the_best_is_kept(search, share):
    """While a trial is begun, or amid its steps."""
    models = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    data = Uneven(int(share * reads()))
    found = learn(*models, data, OuterLoss(V), solver=QUICK, search=search)
    assert found.status is SearchStatus.TRIAL_FAILED
    assert "the disk is gone" in f"{found.error}{found.error.__cause__}"
    assert isfinite(found.outer)
    assert found.outer == found.path[0].outer
    assert "TRIAL_FAILED" in str(found)
    assert all(isfinite(t.outer) == (t.status is not Status.DATA_FAILED) for t in found.path)


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

    found = tried(search=Optuna(trials=4), neighbourhood=Once(0.3), parameters=("lambdas", "delta"))
    assert found.status is SearchStatus.TRIAL_FAILED
    assert str(found.error) == "not here"
    assert len(found.path) == 1
    with pytest.raises(RuntimeError, match="not here"):
        tried(neighbourhood=Once(0.2))


def test_a_chosen_solution_whose_solve_failed_is_said():
    diverging = replace(QUICK, optimizer=torchopt.sgd(1e3))
    with pytest.warns(
        UserWarning, match="learn: the chosen solution's own solve ended as DIVERGED"
    ):
        found = tried(solver=diverging, search=ONE)
    assert found.solution.status.failed
    assert "own solve ended as DIVERGED" in str(found)


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
    paths = [tried(outer, test=loaders[2], search=ONE).path for _ in range(2)]
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
    found = learn(
        net(3, 2),
        net(5, 3),
        TensorDataset(X, Y),
        OuterLoss(V),
        parameters=("lambdas", "theta"),
        start="uniform",
        solver=QUICK,
        search=ONE,
    )
    assert isfinite(found.outer)


@pytest.mark.parametrize(
    ("adjoint", "solver"),
    [
        (Unroll(last=2), QUICK),
        (Implicit(CG(1e-4), tol=1e-2), LBFGS(steps=3000, tol=1e-3, draws=1)),
    ],
    ids=["last", "implicit"],
)
def test_other_adjoints_lower_the_outer_loss(adjoint, solver):
    """The loss has isolated minimisers, as the implicit derivative needs."""

    def squares(outputs, targets):
        wanted = torch.nn.functional.one_hot(targets, 3).to(outputs)
        return ((outputs - wanted) ** 2).sum(1)

    found = tried(
        OuterLoss(V, loss=squares),
        solver=solver,
        search=replace(FEW, adjoint=adjoint),
        loss=squares,
        lambdas=(0.4, 0.4, 0.2, 0),
    )
    assert found.path[0].slopes
    assert found.outer < found.start_outer
