"""What a term from outside declares of itself is asked of models, data and loss, and reported."""

from typing import ClassVar

import pytest
import torch

import phiopt
from phiopt.objective import Frobenius, Gaussian
from tests.cases import flatten, generator, parameters, randn
from tests.extra_terms import LAMBDAS, QUICK, Far, Sharpness, X, Y, models


def hinges(outputs, targets):
    """It has no third derivative."""
    return torch.nn.functional.multi_margin_loss(outputs, targets, reduction="none")


class Bag(torch.nn.Module):
    """It reads tokens."""

    def __init__(self, width):
        super().__init__()
        self.bag, self.last = torch.nn.EmbeddingBag(7, width), torch.nn.Linear(width, 2)

    def forward(self, x):
        return self.last(self.bag(x).tanh())


def test_what_a_term_takes_of_the_loss_is_checked_by_what_it_declares():
    term = Sharpness(Frobenius())
    options = {"loss": hinges, "scale": "paper"}
    with pytest.raises(TypeError, match=r"with extra\.sharpness > 0 the solver needs third"):
        phiopt.pose(*models(), (0.5, 0.5, 0, 0), (X, Y), extra=[(0.1, term)], **options)
    problem = phiopt.pose(*models(), (0.5, 0.5, 0, 0), (X, Y), extra=[(0.0, term)], **options)
    assert sorted(problem.left_out) == ["curvature", "sharpness"]
    solution = problem.solve(solver=QUICK, certificate="full")
    assert list(solution.terms) == ["task", "proximity", "noise"]
    assert str(solution).count("not reported, has no derivatives to trust") == 2
    with pytest.raises(ValueError, match=r"^extra\.sharpness: got 0\.1, must be the number 0"):
        problem.solve(extra={"sharpness": 0.1})


def test_a_term_that_needs_floating_inputs_declares_it():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bags = Bag(5), Bag(5)
    tokens = torch.randint(7, (60, 3), generator=generator(5))
    term = Far(Gaussian(0.5))
    with pytest.raises(TypeError, match=r"extra\.far is not 0; neighbours x' need floating"):
        phiopt.pose(*bags, (0.5, 0.5, 0, 0), (tokens, Y), extra=[(0.1, term)])
    problem = phiopt.pose(*bags, (0.5, 0.5, 0, 0), (tokens, Y), extra=[(0.0, term)])
    assert {"noise", "far"} <= problem.left_out.keys()


def test_a_second_noise_term_keeps_its_own_delta():
    small, large = models()
    options = {"solver": QUICK, "scale": "paper"}
    both = []
    for delta in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        for far in (0.5, torch.tensor(0.5, dtype=torch.float64, requires_grad=True)):
            extra = [(0.3, Far(Gaussian(far)))]
            around = phiopt.Gaussian(delta)
            both.append(
                phiopt.initialize(
                    small, large, LAMBDAS, (X, Y), neighbourhood=around, extra=extra, **options
                )
            )
    for solution in both[1:]:
        torch.testing.assert_close(flatten(solution.params), flatten(both[0].params))
    problem = phiopt.pose(small, large, LAMBDAS, (X, Y), extra=[(0.3, Far(Gaussian(0.5)))])
    moved = problem.solve(delta=0.2, solver=QUICK)
    theirs = phiopt.pose(
        small,
        large,
        LAMBDAS,
        (X, Y),
        neighbourhood=phiopt.Uniform(0.2),
        extra=[(0.3, Far(Gaussian(0.5)))],
    ).solve(solver=QUICK)
    assert moved.terms["far"] == pytest.approx(theirs.terms["far"], rel=1e-2)


def test_every_adjoint_differentiates_in_a_terms_own_tensor():
    small, large = models()
    direction = randn(len(flatten(parameters(large))), seed=8)

    def outer(delta, adjoint=None):
        extra = [(0.3, Far(Gaussian(delta)))]
        options = {"solver": QUICK, "scale": "paper", "extra": extra, "adjoint": adjoint}
        solution = phiopt.initialize(small, large, (0.4, 0.4, 0.2, 0), (X, Y), **options)
        return flatten(solution.params) @ direction

    delta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(outer(delta, phiopt.Replay()), delta)
    h = 1e-4
    expected = float(outer(0.5 + h) - outer(0.5 - h)) / (2 * h)
    assert float(derivative) == pytest.approx(expected, rel=1e-3)
    transformed = torch.func.grad(lambda d: outer(d, phiopt.Replay()))(delta.detach())
    torch.testing.assert_close(transformed, derivative)


def test_a_report_of_a_term_that_raises_does_not_cost_the_solution():
    class Frail(Sharpness):
        def value(self, at, draws):
            raise RuntimeError("out of memory")

    extra = [(0.0, Frail(Frobenius()))]
    with pytest.raises(phiopt.SolveError, match=r"the sharpness for the report .*memory") as caught:
        phiopt.initialize(
            *models(), (0.5, 0.5, 0, 0), (X, Y), solver=QUICK, extra=extra, certificate="full"
        )
    assert list(caught.value.solution.terms) == ["task", "proximity", "noise", "curvature"]


def test_two_terms_that_name_one_tensor_differently_are_refused():
    class Other(Far):
        name: ClassVar[str] = "other"
        _delta_name = "far.delta"

    tensors = [torch.tensor(delta, dtype=torch.float64) for delta in (0.5, 0.6)]
    extra = [(0.1, Far(Gaussian(tensors[0]))), (0.1, Other(Gaussian(tensors[1])))]
    with pytest.raises(ValueError, match=r"^extra: other and another term name different tensors"):
        phiopt.initialize(*models(), LAMBDAS, (X, Y), extra=extra)
