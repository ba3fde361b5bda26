"""Searches on outer losses that are written down, so that their minima are known."""

from math import isfinite, nan

import pytest
import torch

from phiopt.bilevel.search import DERIVATIVE, Evaluation, Mirror, SearchStatus, Space

CENTRE = Space({"lambdas": torch.full((4,), 0.25, dtype=torch.float64)}, floor=0.01)
TARGET = torch.tensor([0.1, 0.3, 0.55, 0.05], dtype=torch.float64)


class Outer:
    """E(λ), its evaluations and the price of all that was asked of it."""

    def __init__(self, loss):
        self.loss, self.points, self.price = loss, [], 0

    def __call__(self, point):
        at = point["lambdas"].clone().requires_grad_()
        value = self.loss(at)
        self.points.append((float(value.detach()), point["lambdas"]))
        self.price += 1

        def slopes():
            self.price += DERIVATIVE
            return {"lambdas": torch.autograd.grad(value, at)[0]}

        return Evaluation(float(value.detach()), slopes)

    @property
    def best(self):
        return min((p for p in self.points if isfinite(p[0])), key=lambda pair: pair[0])[1]


def bowl(weights):
    return ((weights - TARGET) ** 2).sum()


@pytest.mark.parametrize("budget", [1, 2, 5, 11, 40])
def test_the_budget_is_kept(budget):
    outer = Outer(bowl)
    assert Mirror(budget=budget).run(outer, CENTRE, 0) is SearchStatus.BUDGET_SPENT
    assert 1 <= outer.price <= budget
    assert torch.equal(outer.points[0][1], CENTRE.start["lambdas"])


def test_a_minimum_inside_the_simplex_is_found():
    outer = Outer(bowl)
    Mirror(budget=80).run(outer, CENTRE, 0)
    torch.testing.assert_close(outer.best, TARGET, rtol=0, atol=5e-3)


@pytest.mark.parametrize("corner", range(4))
def test_a_minimum_at_a_vertex_is_reached_within_the_default_budget(corner):
    outer = Outer(lambda weights: 1 - weights[corner])
    Mirror().run(outer, CENTRE, 0)
    assert outer.best[corner] > 0.98
    assert outer.best[1] >= 0.01 - 1e-12


def flat_at_the_centre(weights):
    return bowl(weights) if (weights - 0.25).abs().max() > 1e-3 else 1 + 0 * weights.sum()


def test_a_flat_start_leaves_the_budget_to_another():
    once, often = Outer(flat_at_the_centre), Outer(flat_at_the_centre)
    assert Mirror(restarts=1).run(once, CENTRE, 0) is SearchStatus.STATIONARY
    assert len(once.points) == 1
    assert Mirror().run(often, CENTRE, 0) is SearchStatus.BUDGET_SPENT
    assert len(often.points) > 1
    assert often.price <= 11
    assert min(often.points, key=lambda pair: pair[0])[0] < 0.1


def test_a_start_that_is_not_finite_is_left():
    outer = Outer(lambda w: w.sum() * nan if (w - 0.25).abs().max() < 1e-3 else bowl(w))
    assert Mirror(restarts=1).run(outer, CENTRE, 0) is SearchStatus.NOT_FINITE
    Mirror().run(outer, CENTRE, 0)
    assert outer.best[2] > 0.25


def test_seeds_choose_the_other_starts():
    found = []
    for seed in (0, 0, 1):
        outer = Outer(flat_at_the_centre)
        Mirror().run(outer, CENTRE, seed)
        found.append(torch.stack([point for _, point in outer.points[:2]]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", ["budget", "restarts", "patience"])
def test_counts_are_checked(name):
    with pytest.raises(ValueError, match=f"{name}: got 0"):
        Mirror(**{name: 0})
