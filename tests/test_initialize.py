"""What `initialize` gives, also with other solvers and on failure, and what it leaves alone."""

import copy
import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torchopt
from torch import nn

from phiopt.initialize import initialize
from phiopt.objective import Lambdas
from phiopt.solve import LBFGS, NewtonCG, Solution, SolveError, Status, TorchOpt
from tests.cases import parameters
from tests.solutions import (
    CROSS_ENTROPY,
    QUARTERS,
    QUICK,
    X,
    Y,
    plain,
    solved,
    storages,
    student,
    teacher,
)


class TestTheSolution:
    def test_is_a_new_student_with_a_report(self):
        actual = plain()
        assert isinstance(actual, Solution)
        assert actual.status is Status.BUDGET_SPENT
        assert list(actual.terms) == ["task", "proximity", "noise", "curvature"]
        assert actual.objective < actual.start_objective
        assert actual.scale == "relative"
        weights = dict(Lambdas.of(QUARTERS).items())
        value = sum(w * actual.terms[n] / actual.divisors.get(n, 1.0) for n, w in weights.items())
        assert actual.objective == pytest.approx(value)
        assert actual.start_terms["proximity"] == 0  # the default start holds a copy of u
        for name, p in actual.student.named_parameters():
            assert torch.equal(p, actual.params[name])
            assert p.requires_grad
            assert p.is_leaf
        assert "BUDGET_SPENT" in str(actual)

    def test_can_be_trained_and_copied(self):
        solution = solved()
        optimizer = torch.optim.SGD(solution.student.parameters(), lr=0.1)
        nn.functional.cross_entropy(solution.student(X), Y).backward()
        optimizer.step()
        copy.deepcopy(solution.student)
        moved = dict(solution.student.named_parameters())["0.weight"]
        assert not torch.equal(moved, solution.params["0.weight"])

    @pytest.mark.slow
    def test_is_the_same_in_inference_mode(self):
        outside, small, large = plain(), teacher(), student()
        with torch.inference_mode():
            data = X.clone(), Y.clone()
            inside = initialize(small, large, QUARTERS, data, solver=QUICK)
        for name, value in outside.params.items():
            assert torch.equal(value, inside.params[name])
        nn.functional.cross_entropy(inside.student(X), Y).backward()

    @pytest.mark.slow
    def test_does_not_follow_the_default_device(self):
        outside, small, large = solved(classes=[2, 0]), teacher(), student()
        with torch.device("meta"):
            inside = initialize(small, large, QUARTERS, (X, Y), classes=[2, 0], solver=QUICK)
        for name, value in outside.params.items():
            assert torch.equal(value, inside.params[name])

    def test_repeats_bit_by_bit_and_depends_on_the_seed(self):
        first, again, other = solved(seed=7), solved(seed=7), solved(seed=8)
        for name, value in first.params.items():
            assert torch.equal(value, again.params[name])
        assert first.certificate == again.certificate
        assert not torch.equal(first.params["0.weight"], other.params["0.weight"])

    def test_shares_nothing_and_leaves_everything_as_it_was(self):
        small, large = teacher(), student()
        large.train()
        x, y = X.clone(), Y.clone()
        before = [p.clone() for m in (small, large) for p in m.parameters()]
        state = torch.get_rng_state()
        solution = initialize(small, large, QUARTERS, (x, y), solver=QUICK)
        after = [p for m in (small, large) for p in m.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert all(p.grad is None for p in after)
        assert torch.equal(x, X)
        assert torch.equal(y, Y)
        assert torch.equal(torch.get_rng_state(), state)
        assert not storages(solution.student) & storages(small, large)
        kept = {p.untyped_storage().data_ptr() for p in solution.params.values()}
        assert not kept & storages(solution.student, small, large)
        assert solution.student.training
        assert all(large.training for large in large.modules())

    def test_is_the_closed_form_for_the_proximity_alone(self):
        """λ = (0, 1, 0, 0) from w0: u at its places, w0 elsewhere, without any data."""
        w0 = {name: p + 0.1 for name, p in parameters(student()).items()}
        solver = TorchOpt(torchopt.sgd(0.4), steps=500, fresh=False, tol=1e-10)
        solution = solved((0, 1, 0, 0), None, start=w0, solver=solver, scale="paper")
        assert solution.status is Status.SOLVED
        assert list(solution.terms) == ["proximity"]
        u = parameters(teacher())
        torch.testing.assert_close(solution.params["0.weight"][:3], u["0.weight"])
        assert torch.equal(solution.params["0.weight"][3:], w0["0.weight"][3:])

    def test_nothing_to_do_is_solved(self):
        solution = initialize(teacher(), student(), (0, 1, 0, 0))
        assert solution.status is Status.SOLVED
        assert solution.stats.steps == 1
        assert solution.certificate.gradient_norm == 0


class TestDeterministicSolvers:
    @pytest.mark.slow
    @pytest.mark.parametrize("solver", [LBFGS(tol=1e-3), NewtonCG(tol=1e-3, draws=2)], ids=str)
    def test_are_solvers_like_any_other(self, solver):
        solution = solved((0.4, 0.4, 0.2, 0), solver=solver, restrict_classes=True)
        ends = solution.certificate.spectrum
        assert solution.status in (Status.SOLVED, Status.SAMPLE_TOO_SMALL)
        assert ends.least > -1e-6 * ends.largest
        assert solution.objective < solution.start_objective
        assert solution.certificate.objective < solution.certificate.start_objective

    def test_an_over_fitted_sample_is_told_and_both_values_reported(self):
        solution = solved(
            (0.05, 0.9, 0.05, 0),
            restrict_classes=True,
            solver=LBFGS(draws=1, batch_size=4, tol=1e-3),
            throw=False,
        )
        assert solution.status is Status.SAMPLE_TOO_SMALL
        fitted = solution.start_objective - solution.objective
        fresh = solution.certificate.start_objective - solution.certificate.objective
        assert fresh < fitted / 2

    def test_a_stationary_point_with_negative_curvature_is_a_saddle(self):
        """L_1 = w1 w2 and its gradient vanish at 0, from where it falls both ways."""

        class Product(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))

            def forward(self, x):
                return x[:, :2] + self.w.prod()

        solution = initialize(
            Product(),
            Product(),
            (0.9, 0.1, 0, 0),
            (X, X[:, :2] * 0 - 1),
            loss=lambda outputs, targets: outputs.sum(1),
            throw=False,
        )
        assert solution.certificate.spectrum.least < 0
        assert solution.status is Status.SADDLE


class TestFailure:
    def test_is_raised_with_the_solution_or_returned(self):
        hopeless = TorchOpt(torchopt.sgd(1e3), steps=3)
        with pytest.raises(SolveError, match=r"^DIVERGED") as caught:
            solved(solver=hopeless)
        assert caught.value.solution.objective == caught.value.solution.start_objective
        returned = solved(solver=hopeless, throw=False)
        assert returned.status is Status.DIVERGED
        assert torch.equal(returned.params["0.weight"], caught.value.solution.params["0.weight"])

    def test_a_start_that_is_not_finite(self):
        def loss(outputs, targets):
            return outputs.sum(1) / 0

        with pytest.raises(SolveError, match="NON_FINITE"):
            solved(loss=loss)

    def test_an_interrupt_leaves_everything_as_it_was(self):
        calls = []

        def loss(outputs, targets):
            calls.append(1)
            if len(calls) == 40:
                raise KeyboardInterrupt
            return outputs.square().sum(1)

        small, large = teacher(), student()
        state = torch.get_rng_state()
        with pytest.raises(KeyboardInterrupt):
            initialize(small, large, QUARTERS, (X, Y), loss=loss)
        assert torch.equal(torch.get_rng_state(), state)
        for module, fresh in ((small, teacher()), (large, student())):
            assert all(map(torch.equal, module.parameters(), fresh.parameters()))


def test_threads_take_turns():
    """They share the global generator, and parameters that are swapped while a module runs."""
    small, large, turns, actual = teacher(), student(), [], {}

    def loss(outputs, targets):
        turns.append(threading.get_ident())
        time.sleep(1e-4)
        return CROSS_ENTROPY(outputs, targets)

    def solve(seed):
        actual[seed] = initialize(
            small, large, QUARTERS, (X, Y), loss=loss, solver=QUICK, seed=seed
        )

    threads = [threading.Thread(target=solve, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(a != b for a, b in pairwise(turns)) == 1
    for seed, solution in actual.items():
        alone = solved(seed=seed)
        assert all(map(torch.equal, solution.params.values(), alone.params.values()))


def test_a_solution_can_be_changed_only_by_replacing():
    actual = plain()
    with pytest.raises(AttributeError):
        actual.status = Status.SOLVED
    assert replace(actual, scale="paper").scale == "paper"
