"""What `learn` finds, by which derivatives, and what its path says."""

from collections import Counter
from dataclasses import replace
from math import inf, isfinite

import pytest
import torch
import torchopt
from torch import nn

from phiopt import _task_checks
from phiopt.bilevel import AdjointError, Replay, Unroll
from phiopt.bilevel.outer import OuterLoss, Training
from phiopt.bilevel.search import Mirror, Optuna, SearchStatus
from phiopt.growth import map as growth_map
from phiopt.learn import learn
from phiopt.objective import Corruption, Gaussian, Lambdas
from tests.cases import generator, mlp, parameters, randn
from tests.learning import FEW, QUICK, V, X, Y, learned


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start": "uniform", "parameters": ("lambdas", "delta", "theta")},
    ],
    ids=["lambdas", "all"],
)
def test_a_search_poses_its_problem_once(options, monkeypatch):
    counts = Counter()

    def counted(module, name):
        call = getattr(module, name)

        def wrapper(*args, **kwargs):
            counts[name] += 1
            return call(*args, **kwargs)

        monkeypatch.setattr(module, name, wrapper)

    counted(growth_map, "derive")
    counted(_task_checks, "verify_gradient")
    counted(_task_checks, "require_derivatives")
    solver = replace(QUICK, steps=1)
    search_result = learned(search=Optuna(trials=10), solver=solver, **options)
    assert len(search_result.path) == 10
    assert counts == {"derive": 1, "verify_gradient": 1, "require_derivatives": 1}


@pytest.fixture(scope="module")
def search_result():
    """A search without options."""
    return learned()


class TestTheResult:
    def test_is_the_best_point_of_the_path(self, search_result):
        assert search_result.outer == min(trial.outer for trial in search_result.path)
        assert search_result.start_outer == search_result.path[0].outer
        assert search_result.outer < search_result.start_outer
        assert search_result.path[0].lambdas == (0.25, 0.25, 0.25, 0.25)
        assert 2 <= len(search_result.path) <= 3
        assert search_result.gradients == 6 * (len(search_result.path) + 3)
        assert [trial.differentiated for trial in search_result.path] == [True] + [False] * (
            len(search_result.path) - 1
        )
        for trial in search_result.path:
            assert sum(trial.lambdas) == pytest.approx(1)
            assert min(trial.lambdas) > 0
            assert trial.lambdas[1] >= 0.01
            assert trial.gradients == 6
        text = str(search_result)
        assert search_result.status.name in text
        assert text.count("<") == 1

    def test_its_solution_gives_the_outer_loss(self):
        outer = OuterLoss(V, robust=0.3, neighbourhood=Gaussian(0.2))
        search_result = learned(outer)
        assert not any(p.requires_grad for p in search_result.solution.params.values())
        again = outer.of(search_result.solution.student, 0)(
            parameters(search_result.solution.student)
        )
        assert float(again) == pytest.approx(search_result.outer, rel=1e-12)
        best = next(trial for trial in search_result.path if trial.outer == search_result.outer)
        assert search_result.lambdas == search_result.solution.lambdas == Lambdas.of(best.lambdas)

    def test_repeats_and_changes_nothing(self, search_result):
        small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
        before = [p.clone() for m in (small, large) for p in m.parameters()]
        state = torch.get_rng_state()
        again = learn(small, large, (X, Y), OuterLoss(V), solver=QUICK, search=FEW)
        after = [p for m in (small, large) for p in m.parameters()]
        assert again.path == search_result.path
        assert all(map(torch.equal, before, after))
        assert all(p.grad is None and p.requires_grad for p in after)
        assert torch.equal(torch.get_rng_state(), state)


def test_the_gradient_of_a_search_are_the_outer_losss_own():
    """Central differences of E along the simplex, in δ and in θ, at the search's start."""
    seen = {}

    class Probe(Mirror):
        def run(self, evaluate, space, seed):
            here = evaluate(space.start)
            gradient = here.gradient()
            h = 1e-5
            for name, value in space.start.items():
                way = torch.tensor([1.0, -2.0, 0.5, 0.5]) if name == "lambdas" else torch.ones(())
                ends = [
                    evaluate(space.start | {name: value + side * way}).value for side in (h, -h)
                ]
                seen[name] = float((gradient[name] * way).sum()), (ends[0] - ends[1]) / (2 * h)
            return SearchStatus.BUDGET_SPENT

    learned(
        search=Probe(),
        start="uniform",
        theta=0.1,
        scale="paper",
        neighbourhood=Gaussian(0.3),
        parameters=("lambdas", "delta", "theta"),
    )
    assert list(seen) == ["lambdas", "delta", "theta"]
    for ours, difference in seen.values():
        assert ours == pytest.approx(difference, rel=1e-5)


def test_delta_and_theta_are_learned_in_log_space():
    search_result = learned(
        parameters=("lambdas", "delta", "theta"),
        neighbourhood=Gaussian(0.3),
        start="uniform",
        theta=0.1,
    )
    assert search_result.outer < search_result.start_outer
    assert search_result.path[0].delta == 0.3
    assert search_result.path[0].theta == 0.1
    assert all(trial.delta > 0 and trial.theta > 0 for trial in search_result.path)
    assert search_result.delta != 0.3
    assert search_result.theta != 0.1


@pytest.mark.slow
def test_replay_and_unroll_walk_the_same_path():
    paths = [learned(search=replace(FEW, adjoint=a)).path for a in (Replay(), Unroll())]
    for ours, theirs in zip(*paths, strict=True):
        assert ours.lambdas == pytest.approx(theirs.lambdas, rel=1e-6)


@pytest.mark.slow
def test_an_outer_loss_after_training():
    d2 = randn(40, 4, seed=7), torch.randint(3, (40,), generator=generator(8))
    after = OuterLoss(V, training=Training(d2, torchopt.sgd(0.1), steps=3, batch_size=20))
    search_result = learned(after)
    assert search_result.outer < search_result.start_outer
    assert search_result.start_outer != learned().start_outer


@pytest.mark.slow
def test_optuna_searches_without_derivatives():
    pytest.importorskip("optuna")
    search_result = learned(
        search=Optuna(trials=6), neighbourhood=Corruption(0.3), parameters=("lambdas", "delta")
    )
    assert search_result.status is SearchStatus.BUDGET_SPENT
    assert len(search_result.path) == 6
    assert search_result.path[0].lambdas == (0.25, 0.25, 0.25, 0.25)
    assert search_result.outer <= search_result.start_outer
    assert len({trial.lambdas for trial in search_result.path}) == 6
    assert all(0.1 - 1e-9 <= trial.delta <= 0.9 + 1e-9 for trial in search_result.path)


@pytest.mark.slow
def test_a_search_that_loses_its_derivative_says_so_and_keeps_the_best():
    calls = []

    class Twice(Replay):
        def solve(self, *args, **options):
            calls.append(1)
            outcome = super().solve(*args, **options)
            if len(calls) < 2:
                return outcome
            broken = {n: _Broken.apply(p) for n, p in outcome.params.items()}
            return replace(outcome, params=broken)

    class _Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, cotangent):
            raise AdjointError("no derivative here")

    search_result = learned(search=Mirror(budget=14, adjoint=Twice()))
    assert search_result.status is SearchStatus.NO_DERIVATIVE
    assert "no derivative here" in str(search_result.error)
    assert search_result.outer == min(trial.outer for trial in search_result.path)


@pytest.mark.slow
@pytest.mark.parametrize("search", [Mirror(budget=12), Optuna(trials=6)], ids=["mirror", "optuna"])
def test_a_term_whose_weight_is_zero_is_neither_learned_nor_computed(search):
    search_result = learned(lambdas=(0.4, 0.3, 0.3, 0), search=search)
    assert {trial.lambdas[3] for trial in search_result.path} == {0}
    assert len({trial.lambdas for trial in search_result.path}) == len(search_result.path)
    assert search_result.outer < search_result.start_outer
    for trial in search_result.path:
        assert sum(trial.lambdas) == pytest.approx(1)
        assert min(trial.lambdas[:3]) > 0
    # Two products a judgement to report L4 at w0 and w1, and none in the steps.
    full = learned(search=search)
    assert search_result.solution.stats.hvp < full.solution.stats.hvp


@pytest.mark.slow
def test_an_outer_loss_that_is_not_finite_is_an_error():
    def loss(outputs, targets):
        return outputs.sum(1) * torch.nan

    for search in (FEW, Optuna(trials=2)):
        with pytest.raises(FloatingPointError, match="outer: its loss is finite nowhere") as caught:
            learned(OuterLoss(V, loss=loss), search=search)
        assert "More may" not in str(caught.value)


def test_frozen_parameters_and_buffers_come_from_the_start():
    small = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)).double()
    large = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    large[0].weight.requires_grad_(False)
    search_result = learn(small, large, (X, Y), OuterLoss(V), solver=QUICK, search=FEW)
    again = OuterLoss(V).of(search_result.solution.student, 0)(
        parameters(search_result.solution.student)
    )
    assert float(again) == pytest.approx(search_result.outer, rel=1e-12)


@pytest.mark.slow
def test_optuna_goes_on_where_the_outer_loss_is_not_finite():
    points = []

    def loss(outputs, targets):
        points.append(outputs)
        return outputs.sum(1) * (torch.nan if 2 < len(points) < 7 else 1.0)

    search_result = learned(OuterLoss(V, loss=loss), search=Optuna(trials=5))
    assert any(trial.outer == inf for trial in search_result.path)
    assert isfinite(search_result.outer)
