"""Searches on outer losses that are written down, so that their minima are known."""

import weakref
from math import inf, isfinite, nan

import pytest
import torch

from phiopt.bilevel.search import DERIVATIVE, Evaluation, Mirror, SearchStatus
from phiopt.bilevel.space import Space

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

        def gradient():
            self.price += DERIVATIVE
            return {"lambdas": torch.autograd.grad(value, at)[0]}

        number = float(value.detach())
        return Evaluation(number if isfinite(number) else inf, gradient)

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
    Mirror(budget=120).run(outer, CENTRE, 0)
    torch.testing.assert_close(outer.best, TARGET, rtol=0, atol=5e-3)


@pytest.mark.parametrize("corner", range(4))
def test_a_minimum_at_a_vertex_is_reached_within_the_default_budget(corner):
    outer = Outer(lambda weights: 1 - weights[corner])
    Mirror().run(outer, CENTRE, 0)
    assert outer.best[corner] > 0.98
    assert outer.best[1] >= 0.01 - 1e-12


def test_a_search_on_a_face_stays_there_and_finds_its_minimum():
    face = Space({"lambdas": torch.tensor([0.4, 0.4, 0.2, 0], dtype=torch.float64)}, floor=0.01)
    target = torch.tensor([0.15, 0.3, 0.55, 0], dtype=torch.float64)
    outer = Outer(lambda weights: ((weights - target) ** 2).sum() - weights[3])
    Mirror(budget=120).run(outer, face, 0)
    torch.testing.assert_close(outer.best, target, rtol=0, atol=5e-3)
    assert all(point[3] == 0 and (point[:3] > 0).all() for _, point in outer.points)
    random = face.random(torch.Generator().manual_seed(0))["lambdas"]
    assert random[3] == 0
    assert float(random.sum()) == pytest.approx(1)


def test_each_term_is_switched_off_once_before_the_first_descent():
    outer = Outer(bowl)
    Mirror().run(outer, CENTRE, 0)
    for term, (_, point) in enumerate(outer.points[1:5]):
        assert float(point[term]) == pytest.approx(0.01 if term == 1 else 0, abs=1e-12)
        assert float(point.sum()) == pytest.approx(1)
    few = Outer(bowl)
    Mirror(budget=8).run(few, CENTRE, 0)
    assert all(float(point.min()) > 0.001 for _, point in few.points)


def test_a_plateau_around_the_start_does_not_hide_a_face():
    """What φ's curvature term does: as long as λ4 is not nearly 0 it has its way."""

    def cliff(weights):
        return torch.where(weights[3] > 0.02, 2 + 0 * weights[0], bowl(weights))

    outer = Outer(cliff)
    Mirror().run(outer, CENTRE, 0)
    assert float(cliff(outer.best)) < float(bowl(CENTRE.without(3)["lambdas"]))


def flat_at_first(weights):
    """Flat at the start and where a term is off; elsewhere a bowl."""
    inside = (weights > 1e-3).all() & (weights[1] > 0.011)
    away = (weights - 0.25).abs().max() > 1e-3
    return bowl(weights) if inside and away else 1 + 0 * weights.sum()


def test_a_flat_start_leaves_the_budget_to_another():
    once, often = Outer(flat_at_first), Outer(flat_at_first)
    assert Mirror(restarts=1).run(once, CENTRE, 0) is SearchStatus.STATIONARY
    assert len(once.points) == 5
    Mirror(budget=20).run(often, CENTRE, 0)
    assert len(often.points) > 5
    assert often.price <= 20
    assert min(value for value, _ in often.points) < 0.5


def test_a_start_that_is_not_finite_is_left():
    nowhere = Outer(lambda weights: weights.sum() * nan)
    assert Mirror().run(nowhere, CENTRE, 0) is SearchStatus.NOT_FINITE
    outer = Outer(lambda w: w.sum() * nan if (w - 0.25).abs().max() < 1e-3 else bowl(w))
    Mirror().run(outer, CENTRE, 0)
    assert isfinite(float(bowl(outer.best)))


def test_points_that_are_not_the_lowest_are_let_go():
    """Each holds the path of a solve."""
    kept = weakref.WeakValueDictionary()

    class Path:
        pass

    def evaluate(point):
        path = Path()
        kept[len(alive)] = path
        alive.append(len(kept))
        value = bowl(point["lambdas"])
        return Evaluation(float(value), lambda: path and {"lambdas": torch.ones(4).double()})

    alive = []
    Mirror(budget=9).run(evaluate, CENTRE, 0)
    assert max(alive) <= 4  # the start, the lowest, the one before and this one


def test_seeds_choose_the_other_starts():
    results = []
    for seed in (0, 0, 1):
        outer = Outer(flat_at_first)
        Mirror(budget=20).run(outer, CENTRE, seed)
        results.append(torch.stack([point for _, point in outer.points[:6]]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", ["budget", "restarts", "patience"])
def test_counts_are_checked(name):
    with pytest.raises(ValueError, match=f"{name}: got 0"):
        Mirror(**{name: 0})
