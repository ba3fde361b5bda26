from collections import Counter
from dataclasses import replace
from math import inf, isfinite

import numpy as np
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
from phiopt.objective import Corruption, Gaussian, Lambdas, Spectral
from phiopt.solve import LBFGS, TorchOpt
from tests.cases import generator, mlp, parameters, randn

X, Y = randn(60, 4, seed=3), torch.randint(2, (60,), generator=generator(4))
V = randn(50, 4, seed=5), torch.randint(3, (50,), generator=generator(6))
QUICK = TorchOpt(torchopt.adam(2e-2, eps_root=1e-16), steps=6, batch_size=16, check_every=6)
FEW = Mirror(budget=6)


def learned(outer=None, **options):
    small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    options = {"solver": QUICK, "search": FEW} | options
    return learn(small, large, (X, Y), outer or OuterLoss(V), **options)


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
    found = learned(search=Optuna(trials=10), **options)
    assert len(found.path) == 10
    assert counts == {"derive": 1, "verify_gradient": 1, "require_derivatives": 1}


@pytest.fixture(scope="module")
def found():
    """A search without options."""
    return learned()


class TestTheResult:
    def test_is_the_best_point_of_the_path(self, found):
        assert found.outer == min(trial.outer for trial in found.path)
        assert found.start_outer == found.path[0].outer
        assert found.outer < found.start_outer
        assert found.path[0].lambdas == (0.25, 0.25, 0.25, 0.25)
        assert 2 <= len(found.path) <= 3
        assert found.gradients == 6 * (len(found.path) + 3)
        assert [trial.differentiated for trial in found.path] == [True] + [False] * (
            len(found.path) - 1
        )
        for trial in found.path:
            assert sum(trial.lambdas) == pytest.approx(1)
            assert min(trial.lambdas) > 0
            assert trial.lambdas[1] >= 0.01
            assert trial.gradients == 6
        text = str(found)
        assert found.status.name in text
        assert text.count("<") == 1

    def test_its_solution_gives_the_outer_loss(self):
        outer = OuterLoss(V, robust=0.3, neighbourhood=Gaussian(0.2))
        found = learned(outer)
        assert not any(p.requires_grad for p in found.solution.params.values())
        again = outer.of(found.solution.student, 0)(parameters(found.solution.student))
        assert float(again) == pytest.approx(found.outer, rel=1e-12)
        best = next(trial for trial in found.path if trial.outer == found.outer)
        assert found.lambdas == found.solution.lambdas == Lambdas.of(best.lambdas)

    def test_repeats_and_changes_nothing(self, found):
        small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
        before = [p.clone() for m in (small, large) for p in m.parameters()]
        state = torch.get_rng_state()
        again = learn(small, large, (X, Y), OuterLoss(V), solver=QUICK, search=FEW)
        after = [p for m in (small, large) for p in m.parameters()]
        assert again.path == found.path
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
    found = learned(
        parameters=("lambdas", "delta", "theta"),
        neighbourhood=Gaussian(0.3),
        start="uniform",
        theta=0.1,
    )
    assert found.outer < found.start_outer
    assert found.path[0].delta == 0.3
    assert found.path[0].theta == 0.1
    assert all(trial.delta > 0 and trial.theta > 0 for trial in found.path)
    assert found.delta != 0.3
    assert found.theta != 0.1


@pytest.mark.slow
def test_replay_and_unroll_walk_the_same_path():
    paths = [learned(search=replace(FEW, adjoint=a)).path for a in (Replay(), Unroll())]
    for ours, theirs in zip(*paths, strict=True):
        assert ours.lambdas == pytest.approx(theirs.lambdas, rel=1e-6)


@pytest.mark.slow
def test_an_outer_loss_after_training():
    d2 = randn(40, 4, seed=7), torch.randint(3, (40,), generator=generator(8))
    after = OuterLoss(V, training=Training(d2, torchopt.sgd(0.1), steps=3, batch_size=20))
    found = learned(after)
    assert found.outer < found.start_outer
    assert found.start_outer != learned().start_outer


@pytest.mark.slow
def test_optuna_searches_without_derivatives():
    pytest.importorskip("optuna")
    found = learned(
        search=Optuna(trials=6), neighbourhood=Corruption(0.3), parameters=("lambdas", "delta")
    )
    assert found.status is SearchStatus.BUDGET_SPENT
    assert len(found.path) == 6
    assert found.path[0].lambdas == (0.25, 0.25, 0.25, 0.25)
    assert found.outer <= found.start_outer
    assert len({trial.lambdas for trial in found.path}) == 6
    assert all(0.1 - 1e-9 <= trial.delta <= 0.9 + 1e-9 for trial in found.path)


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

    found = learned(search=Mirror(budget=14, adjoint=Twice()))
    assert found.status is SearchStatus.NO_DERIVATIVE
    assert "no derivative here" in str(found.error)
    assert found.outer == min(trial.outer for trial in found.path)


@pytest.mark.slow
@pytest.mark.parametrize("search", [Mirror(budget=12), Optuna(trials=6)], ids=["mirror", "optuna"])
def test_a_term_whose_weight_is_zero_is_neither_learned_nor_computed(search):
    found = learned(lambdas=(0.4, 0.3, 0.3, 0), search=search)
    assert {trial.lambdas[3] for trial in found.path} == {0}
    assert len({trial.lambdas for trial in found.path}) == len(found.path)
    assert found.outer < found.start_outer
    for trial in found.path:
        assert sum(trial.lambdas) == pytest.approx(1)
        assert min(trial.lambdas[:3]) > 0
    # Two products a judgement to report L4 at w0 and w1, and none in the steps.
    full = learned(search=search)
    assert found.solution.stats.hvp < full.solution.stats.hvp


@pytest.mark.slow
def test_an_outer_loss_that_is_not_finite_is_an_error():
    def loss(outputs, targets):
        return outputs.sum(1) * torch.nan

    for search in (FEW, Optuna(trials=2)):
        with pytest.raises(FloatingPointError, match="outer: its loss is finite nowhere") as caught:
            learned(OuterLoss(V, loss=loss), search=search)
        assert "More may" not in str(caught.value)


BAD = {
    "vertex": ({"lambdas": (0, 1, 0, 0)}, ValueError, "lambdas: .*at a vertex"),
    "below floor": ({"floor": 0.3}, ValueError, r"λ2 at most floor=0\.3"),
    "floor": ({"floor": 0.0}, ValueError, "floor: got 0"),
    "unknown": ({"parameters": ("lambdas", "psi")}, ValueError, "parameters: got .*psi"),
    "no lambdas": ({"parameters": ("delta",)}, ValueError, "parameters: got"),
    "delta 0": (
        {"parameters": ("lambdas", "delta"), "neighbourhood": Gaussian(0.0)},
        ValueError,
        "neighbourhood: δ is 0",
    ),
    "theta start": ({"parameters": ("lambdas", "theta")}, ValueError, "start: got None"),
    "theta": (
        {"parameters": ("lambdas", "theta"), "start": "uniform", "theta": 0.0},
        ValueError,
        "theta: got 0",
    ),
    "outer": ({"outer": V}, TypeError, "outer: got tuple, must be an OuterLoss"),
    "test": ({"test": (V[0][3:5], V[1][3:5])}, ValueError, "outer.data: 2 of its different inputs"),
    "labels": (
        {"outer": OuterLoss((V[0], V[1] + 1))},
        ValueError,
        "^outer.data: labels from 1 to 3",
    ),
    "training labels": (
        {"outer": OuterLoss(V, training=Training((V[0], V[1] - 1), steps=1))},
        ValueError,
        "^outer.training.data: labels from -1 to 1",
    ),
    "outer shapes": (
        {"outer": OuterLoss((V[0], V[1][:, None]))},
        ValueError,
        r"^outer.data: targets are \(.*, 1\) where outputs are",
    ),
    "search": ({"search": "mirror"}, TypeError, r"search: got 'mirror', which has no run\(\)"),
    "search class": ({"search": Mirror}, TypeError, "search: got the class Mirror"),
    "neighbourhood": ({"neighbourhood": 0.1}, TypeError, "neighbourhood: got 0.1"),
    "floor type": ({"floor": "low"}, TypeError, "floor: got 'low', must be a number"),
    "seed": ({"seed": "a"}, TypeError, "seed: got 'a', must be a whole number"),
    "one name": ({"parameters": "lambdas"}, ValueError, "parameters: got 'lambdas', must be names"),
    "delta jumps": (
        {"parameters": ("lambdas", "delta"), "neighbourhood": Corruption(0.3)},
        ValueError,
        "x' jumps in δ under Corruption",
    ),
    "outer width": (
        {"outer": OuterLoss((V[0][:, :3], V[1]))},
        ValueError,
        r"^outer.data: the student's forward pass fails .*\(2, 3\).*in the student's space",
    ),
    "training width": (
        {"outer": OuterLoss(V, training=Training((V[0][:, :3], V[1]), steps=1))},
        ValueError,
        r"^outer.training.data: the student's forward pass fails",
    ),
    "accuracy": (
        {"outer": OuterLoss(V, loss=lambda o, t: (o.argmax(1) == t).double())},
        ValueError,
        r"^outer.loss: has no derivative .*search=Optuna\(\)",
    ),
    "scalar loss": (
        {"outer": OuterLoss(V, loss=nn.functional.cross_entropy)},
        ValueError,
        r"^outer.loss: returned \(\) for 2 examples, must give one loss per example",
    ),
    "tokens": (
        {"outer": OuterLoss((V[1][:, None], V[1]))},
        TypeError,
        r"^outer.data: inputs are torch.int64, .*robust=0",
    ),
    "test kind": ({"test": V[0]}, TypeError, "^test: got Tensor"),
    "outer empty": ({"outer": OuterLoss((V[0][:0], V[1][:0]))}, ValueError, "^outer.data: empty"),
    "outer nan": (
        {"outer": OuterLoss((V[0] * torch.nan, V[1]))},
        ValueError,
        "^outer.data: inputs hold NaN",
    ),
    "no parameters": ({"parameters": None}, ValueError, "^parameters: got None"),
    "no steps": (
        {"solver": LBFGS()},
        TypeError,
        r"^solver: LBFGS takes no steps .*search=Mirror\(adjoint=Implicit\(\)\), or Optuna",
    ),
    "no fill": ({"start": "nope"}, ValueError, "^start: got 'nope', must be one of default"),
    "spectral": ({"curvature": Spectral()}, ValueError, "Spectral"),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_named(options, error, message, monkeypatch):
    solves = []
    monkeypatch.setattr(TorchOpt, "solve", lambda *args, **options: solves.append(args))
    with pytest.raises(error, match=message):
        learned(**options)
    assert not solves


@pytest.mark.parametrize(
    "lambdas",
    [
        torch.tensor([0.2, 0.4, 0.4, 0.0], requires_grad=True),
        torch.tensor([0.2, 0.4, 0.4, 0.0]) * (1 + 1e-7),
        np.array([0.2, 0.4, 0.4, 0.0]),
        Lambdas(0.2, 0.4, 0.4, 0.0),
    ],
    ids=["requires grad", "rounded", "ndarray", "Lambdas"],
)
def test_the_start_may_be_given_as_initialize_takes_it(lambdas):
    found = learned(lambdas=lambdas, search=Mirror(budget=1))
    assert found.path[0].lambdas == pytest.approx((0.2, 0.4, 0.4, 0.0))
    assert found.path[0].lambdas[3] == 0
    if isinstance(lambdas, torch.Tensor):
        assert lambdas.grad is None


@pytest.mark.slow
@pytest.mark.parametrize("search", [FEW, Optuna(trials=2)], ids=["mirror", "optuna"])
def test_the_default_device_does_not_matter(search):
    small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    options = {"solver": QUICK, "search": search}
    with torch.device("meta"):  # stands for any other device
        there = learn(small, large, (X, Y), OuterLoss(V), **options)
    assert there.path == learned(search=search).path


@pytest.mark.slow
def test_test_data_that_share_nothing_are_welcome():
    assert learned(test=(V[0] + 1e-9, V[1])).outer == learned().outer


def test_frozen_parameters_and_buffers_come_from_the_start():
    small = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)).double()
    large = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    large[0].weight.requires_grad_(False)
    found = learn(small, large, (X, Y), OuterLoss(V), solver=QUICK, search=FEW)
    again = OuterLoss(V).of(found.solution.student, 0)(parameters(found.solution.student))
    assert float(again) == pytest.approx(found.outer, rel=1e-12)


@pytest.mark.slow
def test_optuna_goes_on_where_the_outer_loss_is_not_finite():
    points = []

    def loss(outputs, targets):
        points.append(outputs)
        return outputs.sum(1) * (torch.nan if 2 < len(points) < 7 else 1.0)

    found = learned(OuterLoss(V, loss=loss), search=Optuna(trials=5))
    assert any(trial.outer == inf for trial in found.path)
    assert isfinite(found.outer)


@pytest.mark.slow
def test_autocast_around_the_search_is_without_effect():
    small, large = mlp(4, 3, 2, seed=1).float(), mlp(4, 5, 3, seed=2).float()
    found = []
    for rounded in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rounded):
            found.append(learn(small, large, (X, Y), OuterLoss(V), solver=QUICK, search=FEW).path)
    assert found[0] == found[1]
