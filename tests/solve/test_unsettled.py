"""A search for the spectral norm's eigenvector that did not end well is reported."""

from dataclasses import replace

import pytest
import torch

from phiopt.objective import CurvatureTerm, Frobenius, Spectral, Stream
from phiopt.solve import LBFGS, Status, TorchOpt, certify, fresh_draws, solve_many, verdict
from phiopt.solve.counted import Counted
from tests.cases import Stackable, classification

LAMBDAS = (0.3, 0.2, 0.3, 0.2)


def certified(curvature):
    objective, start = classification(LAMBDAS, curvature=curvature)
    draws = fresh_draws(objective, start, None, 0)
    return certify(objective, start, start, draws)


def test_the_certificate_says_what_the_search_left():
    assert certified(Frobenius()).curvature_error is None
    for curvature in (Spectral(), Spectral(tol=1e-3)):
        actual = certified(curvature)
        assert actual.curvature_error <= curvature.tol
        assert actual.unsettled == 0
    short = certified(Spectral(iterations=4))
    assert short.curvature_error > 1e-3
    assert short.unsettled == short.draws


def test_a_stationary_point_of_an_inexact_gradient_is_not_solved():
    objective, start = classification(LAMBDAS, curvature=Spectral())
    outcome = replace(LBFGS(tol=0.5, draws=1).solve(objective, start), saa_samples=None)
    certificate = certify(objective, start, outcome.params, fresh_draws(objective, start, None, 0))
    assert outcome.status is Status.SOLVED
    assert verdict(outcome, certificate) is Status.SOLVED
    assert verdict(outcome, replace(certificate, unsettled=1)) is Status.UNSETTLED
    spent = replace(outcome, status=Status.BUDGET_SPENT)
    assert verdict(spent, replace(certificate, unsettled=1)) is Status.BUDGET_SPENT


@pytest.mark.parametrize("iterations", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_work_and_what_was_left_are_counted_also_in_a_batch(iterations):
    objective, start = classification(LAMBDAS, curvature=Spectral(iterations))
    solver = TorchOpt(steps=2)
    alone = solver.solve(objective, start)
    points = torch.tensor([LAMBDAS, LAMBDAS], dtype=torch.float64)
    for together in solve_many(solver, [Stackable(objective, start)], points)[0]:
        torch.testing.assert_close(together.params, alone.params, rtol=1e-7, atol=1e-9)
        assert (together.stats.unsettled > 0) == (alone.stats.unsettled > 0) == (iterations == 3)


def test_the_products_of_a_search_count_as_they_come():
    objective, start = classification(LAMBDAS, curvature=Spectral())
    sample = objective.sample(start, None, 0, Stream.TRAIN, 0)
    ended = []
    searching = objective.with_term(CurvatureTerm(Spectral().reporting(ended.append)))
    searching.value_and_grad(start, sample)
    counted = Counted(objective)
    counted.value_and_grad(start, sample)
    assert 8 < ended[0].products < 40
    assert counted.hvp == ended[0].products + 1
