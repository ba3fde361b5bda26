"""Arguments of `learn`: what breaks their rule is named before any solve, and other forms of what is right."""

import numpy as np
import pytest
import torch
from torch import nn

from phiopt.bilevel.outer import OuterLoss, Training
from phiopt.bilevel.search import Mirror, Optuna
from phiopt.learn import learn
from phiopt.objective import Corruption, Gaussian, Lambdas, Spectral
from phiopt.solve import LBFGS, TorchOpt
from tests.cases import mlp
from tests.learning import FEW, QUICK, V, X, Y, learned

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
    "outer": ({"outer": V}, TypeError, "outer: got .* must be an OuterLoss"),
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
    result = learned(lambdas=lambdas, search=Mirror(budget=1))
    assert result.path[0].lambdas == pytest.approx((0.2, 0.4, 0.4, 0.0))
    assert result.path[0].lambdas[3] == 0
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


@pytest.mark.slow
def test_autocast_around_the_search_is_without_effect():
    small, large = mlp(4, 3, 2, seed=1).float(), mlp(4, 5, 3, seed=2).float()
    results = []
    for rounded in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rounded):
            results.append(learn(small, large, (X, Y), OuterLoss(V), solver=QUICK, search=FEW).path)
    assert results[0] == results[1]
