"""`phiopt.estimate_cost`: its arithmetic, its memory against a measured peak, and that nothing is touched."""

import pytest
import torch
from torch import nn

import phiopt
from benchmarks.test_gradient_cost import Peak
from phiopt.solve import forecast
from tests.cases import generator

X, Y = torch.rand(200, 20, generator=generator(1)), torch.randint(5, (200,), generator=generator(2))
LAMBDAS = (0.25, 0.25, 0.25, 0.25)


def models(width=4):
    torch.manual_seed(0)
    return tuple(
        nn.Sequential(nn.Linear(20, w), nn.Tanh(), nn.Linear(w, w), nn.Tanh(), nn.Linear(w, 5))
        for w in (width, 2 * width)
    )


@pytest.mark.parametrize(("level", "certificate"), [("light", 8.0), ("full", 8.0), (None, 0.0)])
def test_the_parts_are_counts_times_seconds(monkeypatch, level, certificate):
    """Every timed call takes a second: a step has a gradient and an update."""
    monkeypatch.setattr(forecast, "_timed", lambda call: 1.0)
    solver = phiopt.TorchOpt(steps=100, batch_size=50, check_every=40)
    cost = phiopt.estimate_cost(
        *models(), LAMBDAS, (X, Y), solver=solver, certificate=level, restarts=2
    )
    expected = {"steps": 200.0, "validation": 16.0, "restarts": 432.0}
    expected |= {"certificate": certificate} if level else {}
    assert {n: s for n, s in cost.seconds.items() if n != "checks and start"} == expected
    assert cost.total == sum(cost.seconds.values()) > sum(expected.values())
    assert cost.parameters == sum(p.numel() for p in models()[1].parameters())
    assert str(cost).startswith("about ")
    assert "MiB" in str(cost)


@pytest.mark.parametrize("lambdas", [LAMBDAS, (0.4, 0.3, 0.3, 0.0)])
def test_the_memory_is_that_of_a_solve(lambdas):
    teacher, student = models(250)
    solver = phiopt.TorchOpt(steps=2, batch_size=64)
    arguments = (teacher, student, lambdas, (X, Y))
    phiopt.initialize(*arguments, solver=solver, throw=False)
    with Peak() as peak:
        phiopt.initialize(*arguments, solver=solver, throw=False)
    cost = phiopt.estimate_cost(*arguments, solver=solver)
    assert cost.memory == pytest.approx(peak.bytes, rel=0.3)


def test_nothing_is_touched_and_options_are_those_of_initialize():
    teacher, student = models()
    before = [p.clone() for p in (*teacher.parameters(), *student.parameters())]
    state = torch.get_rng_state()
    options = {"neighbourhood": phiopt.Gaussian(0.1), "micro_batch": 16, "start": "zero-out"}
    cost = phiopt.estimate_cost(teacher, student, LAMBDAS, (X, Y), **options)
    assert cost.memory > 0
    assert torch.equal(state, torch.get_rng_state())
    after = [*teacher.parameters(), *student.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with pytest.raises(TypeError, match="neighborhood"):
        phiopt.estimate_cost(teacher, student, LAMBDAS, (X, Y), neighborhood=None)
    assert phiopt.estimate_cost(*models(), LAMBDAS, (X, Y), solver=phiopt.LBFGS()).memory is None
