from dataclasses import replace

import pytest
import torch
import torchopt
from torch.func import grad

from phiopt.objective import Frobenius, Stream
from phiopt.solve import TorchOpt, default_optimizer, normalised
from tests.cases import classification, ridge


def test_steps_depend_on_the_gradients_direction_alone():
    torch.manual_seed(0)
    w = {"a": torch.randn(3, 2, dtype=torch.float64), "b": torch.randn(4, dtype=torch.float64)}
    for optimizer in (torchopt.sgd(0.1), torchopt.adam(1e-2)):
        ours = normalised(optimizer)
        small, _ = ours.update({n: 1e-6 * v for n, v in w.items()}, ours.init(w), params=w)
        large, _ = ours.update({n: 1e9 * v for n, v in w.items()}, ours.init(w), params=w)
        torch.testing.assert_close(small, large, rtol=1e-7, atol=0.0)
    step, _ = normalised(torchopt.sgd(0.1)).update(w, normalised(torchopt.sgd(0.1)).init(w))
    assert sum(float(v.square().sum()) for v in step.values()) == pytest.approx(0.01 * 10)


def test_a_gradient_of_zero_stays_zero_and_differentiable():
    optimizer = normalised(torchopt.sgd(1.0))

    def moved(g):
        (step, _) = optimizer.update({"w": g}, optimizer.init({"w": g}))
        return step["w"].sum()

    zero = torch.zeros(3, dtype=torch.float64)
    assert moved(zero) == 0
    assert grad(moved)(zero).isfinite().all()


def test_its_derivative_is_that_of_the_direction():
    optimizer = normalised(torchopt.sgd(1.0))
    g = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: optimizer.update({"w": x}, optimizer.init({"w": x}))[0]["w"], g
    )


def test_a_curvature_that_collapses_does_not_leave_short_steps_behind():
    """Gradients that fall a thousandfold: Adam remembers the first ones, and hardly moves after them."""
    w = {"w": torch.zeros(2)}
    travelled = {}
    for name, wrap in (("plain", lambda o: o), ("normalised", normalised)):
        optimizer = wrap(torchopt.adam(1e-2))
        state, total = optimizer.init(w), torch.zeros(2)
        for step in range(60):
            size = 1e3 if step < 10 else 1.0
            update, state = optimizer.update({"w": size * torch.ones(2)}, state, params=w)
            total += update["w"]
        travelled[name] = float(total.abs().max())
    assert travelled["normalised"] == pytest.approx(60 * 1e-2, rel=1e-3)
    assert travelled["plain"] < 0.5 * travelled["normalised"]


def test_the_default_solver_takes_normalised_steps():
    case = ridge()
    objective = replace(case.objective(), curvature=Frobenius(batch=None))
    given = TorchOpt(default_optimizer(40), steps=40, batch_size=16)
    by_default = TorchOpt(steps=40, batch_size=16).solve(objective, case.start, seed=1)
    explicit = given.solve(objective, case.start, seed=1)
    assert by_default.objective == explicit.objective < by_default.start_objective
    sample = objective.sample(case.start, 16, 1, Stream.STEP, 0)
    assert float(objective.value(case.start, sample)) > by_default.objective


def test_over_a_window_a_gradient_keeps_its_size_beside_its_neighbours():
    """Every fourth gradient is eight times the others: with a window of four it stays much larger."""
    w = {"w": torch.zeros(3, dtype=torch.float64)}
    sizes = {}
    for window in (1, 4):
        optimizer = normalised(torchopt.sgd(1.0), window)
        state, steps = optimizer.init(w), []
        for step in range(40):
            g = (8.0 if step % 4 == 0 else 1.0) * torch.ones(3, dtype=torch.float64)
            update, state = optimizer.update({"w": g}, state, params=w)
            steps.append(float(update["w"].abs().mean()))
        sizes[window] = steps[-4] / steps[-1]
    assert sizes[1] == pytest.approx(1.0)
    assert sizes[4] > 4


def test_the_default_averages_over_as_many_steps_as_share_one_curvature():
    objective, start = classification((0.25, 0.25, 0.25, 0.25), count=64)
    for every in (1, 4):
        changed = replace(objective, curvature=Frobenius(every=every))
        explicit = TorchOpt(default_optimizer(12, every=every), steps=12, batch_size=32)
        expected = explicit.solve(changed, start, seed=1).params
        found = TorchOpt(steps=12, batch_size=32).solve(changed, start, seed=1).params
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_bad_window_is_named():
    with pytest.raises(ValueError, match="window: got 0"):
        normalised(torchopt.sgd(1.0), window=0)
