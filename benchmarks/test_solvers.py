"""The solvers on one smooth problem: what a frozen minimum costs, and what it is worth.

python -m pytest benchmarks/test_solvers.py -s --benchmark-json=solvers.json

A GELU network on scikit-learn's digits 0 to 4, grown from 16 to 32 units, the task, proximity and
noise terms with all outputs of the teacher's classes. Figures of one run are comparable with each
other: gradients are counted, not timed.
"""

import pytest
import torch
import torchopt
from sklearn.datasets import load_digits
from torch import nn

import phiopt

LAMBDAS = (0.3, 0.4, 0.3, 0.0)


def mlp(width: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, width),
        nn.GELU(),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Linear(width, classes),
    )


@pytest.fixture(scope="module")
def problem():
    pixels, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    x, y = (pixels[labels < 5] / 16).double(), labels[labels < 5]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher, student = mlp(16, 5).double(), mlp(32, 10).double()
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(teacher(x), y).backward()
        optimizer.step()
    return teacher, student, (x, y)


def solve(problem, solver):
    teacher, student, data = problem
    return phiopt.initialize(
        teacher, student, LAMBDAS, data, solver=solver, restrict_classes=True, throw=False
    )


def report(name, outcome, benchmark):
    c, s = outcome.certificate, outcome.stats
    row = {
        "status": outcome.status.name,
        "fitted": outcome.objective,
        "fresh": c.objective,
        "relative gradient norm": c.gradient_norm,
        "gradients": s.gradient,
        "hvp": s.hvp,
        "seconds": s.seconds,
    }
    benchmark.extra_info |= row
    shown = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
    print(f"\n{name}: {', '.join(shown)}")


SOLVERS = {
    "TorchOpt, 150 steps": phiopt.TorchOpt(),
    "TorchOpt, 1500 steps": phiopt.TorchOpt(steps=1500),
    "TorchOpt, frozen": phiopt.TorchOpt(
        torchopt.adam(1e-3), steps=1500, batch_size=None, fresh=False, tol=1e-3
    ),
    "LBFGS": phiopt.LBFGS(draws=4, tol=1e-3),
    "NewtonCG, trust-krylov": phiopt.NewtonCG(draws=4, tol=1e-3),
    "NewtonCG, newton-cg": phiopt.NewtonCG("newton-cg", draws=4, tol=1e-3),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_the_minimum_and_its_price(benchmark, problem, name):
    outcome = benchmark.pedantic(solve, (problem, SOLVERS[name]), rounds=1)
    report(name, outcome, benchmark)
    assert outcome.objective < outcome.start_objective


def test_a_larger_frozen_sample_holds_better_on_fresh_draws(benchmark, problem):
    """The gap between fitted and fresh value shrinks with the number of draws; None chooses it."""
    gaps = {}
    for draws in (1, 16, None):
        solver = phiopt.LBFGS(draws=draws, batch_size=64, tol=1e-3)
        outcome = solve(problem, solver)
        gaps[draws] = outcome.certificate.objective - outcome.objective
        report(f"LBFGS, {draws} draws of 64", outcome, benchmark)
    benchmark.extra_info["gaps"] = gaps
    benchmark.pedantic(lambda: None, rounds=1)
    assert max(gaps[16], gaps[None]) < gaps[1]
