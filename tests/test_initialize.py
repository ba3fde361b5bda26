import copy
import threading
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchopt
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from phiopt.initialize import initialize
from phiopt.objective import Corruption, Gaussian, Lambdas, Spectral, Uniform
from phiopt.solve import LBFGS, NewtonCG, Solution, SolveError, Status, TorchOpt
from tests.cases import generator, mlp, parameters, randn
from tests.solutions import (
    BARE,
    CROSS_ENTROPY,
    QUARTERS,
    QUICK,
    X,
    Y,
    plain,
    solved,
    student,
    teacher,
)


def storages(*modules):
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    return {t.untyped_storage().data_ptr() for t in tensors}


class TestTheSolution:
    def test_is_a_new_student_with_a_report(self):
        found = plain()
        assert isinstance(found, Solution)
        assert found.status is Status.BUDGET_SPENT
        assert list(found.terms) == ["task", "proximity", "noise", "curvature"]
        assert found.objective < found.start_objective
        assert found.scale == "relative"
        weights = dict(Lambdas.of(QUARTERS).items())
        value = sum(w * found.terms[n] / found.divisors.get(n, 1.0) for n, w in weights.items())
        assert found.objective == pytest.approx(value)
        assert found.start_terms["proximity"] == 0  # the default start holds a copy of u
        for name, p in found.student.named_parameters():
            assert torch.equal(p, found.params[name])
            assert p.requires_grad
            assert p.is_leaf
        assert "BUDGET_SPENT" in str(found)

    def test_can_be_trained_and_copied(self):
        found = solved()
        optimizer = torch.optim.SGD(found.student.parameters(), lr=0.1)
        nn.functional.cross_entropy(found.student(X), Y).backward()
        optimizer.step()
        copy.deepcopy(found.student)
        moved = dict(found.student.named_parameters())["0.weight"]
        assert not torch.equal(moved, found.params["0.weight"])

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
        found = initialize(small, large, QUARTERS, (x, y), solver=QUICK)
        after = [p for m in (small, large) for p in m.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert all(p.grad is None for p in after)
        assert torch.equal(x, X)
        assert torch.equal(y, Y)
        assert torch.equal(torch.get_rng_state(), state)
        assert not storages(found.student) & storages(small, large)
        held = {p.untyped_storage().data_ptr() for p in found.params.values()}
        assert not held & storages(found.student, small, large)
        assert found.student.training
        assert all(large.training for large in large.modules())

    def test_is_the_closed_form_for_the_proximity_alone(self):
        """λ = (0, 1, 0, 0) from w0: u at its places, w0 elsewhere, without any data."""
        w0 = {name: p + 0.1 for name, p in parameters(student()).items()}
        solver = TorchOpt(torchopt.sgd(0.4), steps=500, fresh=False, tol=1e-10)
        found = solved((0, 1, 0, 0), None, start=w0, solver=solver, scale="paper")
        assert found.status is Status.SOLVED
        assert list(found.terms) == ["proximity"]
        u = parameters(teacher())
        torch.testing.assert_close(found.params["0.weight"][:3], u["0.weight"])
        assert torch.equal(found.params["0.weight"][3:], w0["0.weight"][3:])

    def test_nothing_to_do_is_solved(self):
        found = initialize(teacher(), student(), (0, 1, 0, 0))
        assert found.status is Status.SOLVED
        assert found.stats.steps == 1
        assert found.certificate.gradient_norm == 0


class TestArguments:
    def test_all_forms_of_lambdas_and_data_agree(self):
        expected = plain().params["0.weight"]
        for lambdas in (Lambdas(*QUARTERS), torch.tensor(QUARTERS, dtype=torch.float64)):
            torch.testing.assert_close(solved(lambdas).params["0.weight"], expected)
        assert torch.equal(solved(data=TensorDataset(X, Y)).params["0.weight"], expected)

    def test_a_loader_goes_round(self):
        own = torch.Generator().manual_seed(1)
        state = own.get_state()
        loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True, generator=own)
        first, again = solved(data=loader), solved(data=loader)
        assert torch.equal(first.params["0.weight"], again.params["0.weight"])
        assert torch.equal(own.get_state(), state)

    def test_the_paper_scale_is_the_raw_weighted_sum(self):
        found = solved(scale="paper")
        assert found.divisors == {}
        assert found.objective == pytest.approx(sum(found.terms.values()) / 4)

    def test_the_relative_scale_starts_at_order_one(self):
        found = plain()
        assert found.divisors["proximity"] == pytest.approx(
            sum(float(u.square().sum()) for u in parameters(teacher()).values())
        )
        ratio = found.start_terms["curvature"] / found.divisors["curvature"]
        assert 0.3 < ratio < 3

    @pytest.mark.parametrize(
        "options",
        [
            {"neighbourhood": Gaussian(0.2, samples=2, clip=(-1, 1))},
            {"neighbourhood": Uniform(0.2, norm=2)},
            {"neighbourhood": Corruption(0.3)},
            {"curvature": Spectral(iterations=3)},
            {"start": "zero"},
            pytest.param({"classes": [2, 0]}, marks=pytest.mark.slow),
            {"restrict_classes": True},
            {"restrict_classes": True, "classes": [2, 0]},
        ],
        ids=str,
    )
    def test_options_change_the_solution_and_lower_the_objective(self, options):
        found = solved(**options)
        assert found.objective < found.start_objective
        assert not torch.equal(found.params["0.weight"], plain().params["0.weight"])

    def test_micro_batches_bound_the_memory_and_change_nothing_else(self):
        torch.testing.assert_close(solved(micro_batch=5).params, plain().params)
        with pytest.raises(ValueError, match="micro_batch: got 0"):
            solved(micro_batch=0)

    def test_a_loss_may_work_in_place(self):
        def in_place(outputs, targets):
            targets.mul_(1)
            return CROSS_ENTROPY(outputs.mul_(2), targets.clamp_(max=1))

        def plain(outputs, targets):
            return CROSS_ENTROPY(2 * outputs, targets)

        solver = replace(QUICK, batch_size=38)  # of which a step chooses examples
        found, wanted = (solved(loss=loss, solver=solver) for loss in (in_place, plain))
        torch.testing.assert_close(found.params, wanted.params)

    def test_numbers_may_be_numpys(self):
        solver = TorchOpt(
            QUICK.optimizer, steps=np.int64(10), batch_size=np.int32(16), check_every=5
        )
        found = solved(solver=solver, seed=np.int64(3), restarts=np.int8(1))
        torch.testing.assert_close(found.params, solved(seed=3, restarts=1).params)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
    def test_a_tensor_of_lambdas_may_need_no_data(self, dtype):
        found = solved(torch.tensor([0, 1, 0, 0]).to(dtype), None)
        assert list(found.terms) == ["proximity"]
        with pytest.raises(ValueError, match="data: None, but the weight of task"):
            solved(torch.tensor([0.0, 1, 0, 0], requires_grad=True), None)

    def test_unseen_classes_leave_the_softmax_when_restricted(self):
        found = solved((0.5, 0.5, 0, 0), restrict_classes=True)
        last = "2.bias"  # of the class that the teacher does not know
        assert found.params[last][2] == parameters(student())[last][2]
        free = solved((0.5, 0.5, 0, 0))
        assert free.params[last][2] < parameters(student())[last][2]

    def test_a_given_loss_on_real_targets(self):
        def squared(outputs, targets):
            return ((outputs - targets) ** 2).mean(1)

        found = solved(data=(X, randn(40, 2)), loss=squared, restrict_classes=True)
        assert found.objective < found.start_objective

    def test_a_plain_callable_lifts(self):
        wide = mlp(6, 5, 3, seed=2)

        def pad(x):
            return nn.functional.pad(x, (0, 2))

        found = initialize(teacher(), wide, QUARTERS, (X, Y), lift=pad, solver=QUICK)
        assert found.objective < found.start_objective
        assert found.params["0.weight"].shape == (5, 6)

    def test_frozen_parameters_stay(self):
        large = student()
        large[0].weight.requires_grad_(False)
        found = initialize(teacher(), large, QUARTERS, (X, Y), solver=QUICK)
        assert "0.weight" not in found.params
        held = dict(found.student.named_parameters())["0.weight"]
        assert torch.equal(held[:3], parameters(teacher())["0.weight"])
        assert not held.requires_grad
        assert not torch.equal(found.params["2.weight"][:2, :3], parameters(teacher())["2.weight"])

    def test_integer_inputs_have_no_neighbours_but_every_other_term(self):
        def tagger(width, classes):
            torch.manual_seed(width)
            return nn.Sequential(
                nn.Embedding(7, width), nn.Flatten(), nn.Linear(3 * width, classes)
            ).double()

        with torch.random.fork_rng():
            small, large = tagger(2, 2), tagger(4, 3)
        tokens = torch.randint(7, (40, 3), generator=generator())
        found = initialize(small, large, (0.4, 0.3, 0, 0.3), (tokens, Y), solver=QUICK)
        assert list(found.terms) == ["task", "proximity", "curvature"]
        with pytest.raises(TypeError, match="neighbours x' need floating inputs"):
            initialize(small, large, QUARTERS, (tokens, Y))

    def test_normalisation_by_stored_statistics(self):
        def net(width):
            torch.manual_seed(width)
            return nn.Sequential(
                nn.Linear(4, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 2)
            ).double()

        with torch.random.fork_rng():
            small, large = net(3), net(5)
        small(X)  # statistics of its own
        found = initialize(small, large, QUARTERS, (X, Y), solver=QUICK)
        held = dict(found.student.named_buffers())
        assert torch.equal(held["1.running_mean"][:3], small[1].running_mean)
        assert not storages(found.student) & storages(small, large)
        assert large[1].num_batches_tracked == 0

    def test_float32_data_for_a_float64_model(self):
        assert solved(data=(X.float(), Y)).params["0.weight"].dtype == torch.float64


class TestDeterministicSolvers:
    @pytest.mark.slow
    @pytest.mark.parametrize("solver", [LBFGS(tol=1e-3), NewtonCG(tol=1e-3, draws=2)], ids=str)
    def test_are_solvers_like_any_other(self, solver):
        found = solved((0.4, 0.4, 0.2, 0), solver=solver, restrict_classes=True)
        ends = found.certificate.spectrum
        assert found.status in (Status.SOLVED, Status.SAMPLE_TOO_SMALL)
        assert ends.least > -1e-6 * ends.largest
        assert found.objective < found.start_objective
        assert found.certificate.objective < found.certificate.start_objective

    def test_an_over_fitted_sample_is_told_and_both_values_reported(self):
        found = solved(
            (0.05, 0.9, 0.05, 0),
            restrict_classes=True,
            solver=LBFGS(draws=1, batch_size=4, tol=1e-3),
            throw=False,
        )
        assert found.status is Status.SAMPLE_TOO_SMALL
        fitted = found.start_objective - found.objective
        fresh = found.certificate.start_objective - found.certificate.objective
        assert fresh < fitted / 2

    def test_a_stationary_point_with_negative_curvature_is_a_saddle(self):
        """L_1 = w1 w2 and its gradient vanish at 0, from where it falls both ways."""

        class Product(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))

            def forward(self, x):
                return x[:, :2] + self.w.prod()

        found = initialize(
            Product(),
            Product(),
            (0.9, 0.1, 0, 0),
            (X, X[:, :2] * 0 - 1),
            loss=lambda outputs, targets: outputs.sum(1),
            throw=False,
        )
        assert found.certificate.spectrum.least < 0
        assert found.status is Status.SADDLE


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
    small, large, turns, found = teacher(), student(), [], {}

    def loss(outputs, targets):
        turns.append(threading.get_ident())
        time.sleep(1e-4)
        return CROSS_ENTROPY(outputs, targets)

    def solve(seed):
        found[seed] = initialize(small, large, QUARTERS, (X, Y), loss=loss, solver=QUICK, seed=seed)

    threads = [threading.Thread(target=solve, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(a != b for a, b in pairwise(turns)) == 1
    for seed, solution in found.items():
        alone = solved(seed=seed)
        assert all(map(torch.equal, solution.params.values(), alone.params.values()))


def test_one_number_per_example_needs_no_classes():
    solution = initialize(
        **BARE, lambdas=QUARTERS, loss=lambda o, y: (o - y) ** 2, solver=QUICK, throw=False
    )
    assert solution.objective < solution.start_objective


def test_parameters_without_entries_stay():
    nothing = [nn.Identity(), nn.Identity()]
    for module in nothing:
        module.register_parameter("empty", nn.Parameter(torch.zeros(0, 3, dtype=torch.float64)))
    solution = initialize(
        nn.Sequential(nothing[0], *teacher()),
        nn.Sequential(nothing[1], *student()),
        QUARTERS,
        (X, Y),
        solver=QUICK,
    )
    assert solution.student[0].empty.shape == (0, 3)


def test_a_solution_can_be_changed_only_by_replacing():
    found = plain()
    with pytest.raises(AttributeError):
        found.status = Status.SOLVED
    assert replace(found, scale="paper").scale == "paper"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_of_lambdas_in_another_dtype_than_the_model(dtype):
    point = torch.tensor(QUARTERS, dtype=dtype, requires_grad=True)
    found = initialize(teacher().float(), student().float(), point, (X, Y), solver=QUICK)
    assert found.params["0.weight"].dtype == torch.float32
    assert not found.params["0.weight"].requires_grad
    rows = [line.split()[:2] for line in str(found).splitlines()]
    assert ["curvature", "0.25"] in rows
