"""`initialize` with its arguments in all their forms, and with models and data of all kinds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from phiopt.initialize import initialize
from phiopt.objective import Corruption, Gaussian, Lambdas, Spectral, Uniform
from phiopt.solve import TorchOpt
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
    storages,
    student,
    teacher,
)


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
        solution = solved(scale="paper")
        assert solution.divisors == {}
        assert solution.objective == pytest.approx(sum(solution.terms.values()) / 4)

    def test_the_relative_scale_starts_at_order_one(self):
        actual = plain()
        assert actual.divisors["proximity"] == pytest.approx(
            sum(float(u.square().sum()) for u in parameters(teacher()).values())
        )
        ratio = actual.start_terms["curvature"] / actual.divisors["curvature"]
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
        solution = solved(**options)
        assert solution.objective < solution.start_objective
        assert not torch.equal(solution.params["0.weight"], plain().params["0.weight"])

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
        actual, wanted = (solved(loss=loss, solver=solver) for loss in (in_place, plain))
        torch.testing.assert_close(actual.params, wanted.params)

    def test_numbers_may_be_numpys(self):
        solver = TorchOpt(
            QUICK.optimizer, steps=np.int64(10), batch_size=np.int32(16), check_every=5
        )
        solution = solved(solver=solver, seed=np.int64(3), restarts=np.int8(1))
        torch.testing.assert_close(solution.params, solved(seed=3, restarts=1).params)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
    def test_a_tensor_of_lambdas_may_need_no_data(self, dtype):
        solution = solved(torch.tensor([0, 1, 0, 0]).to(dtype), None)
        assert list(solution.terms) == ["proximity"]
        with pytest.raises(ValueError, match="data: None, but the weight of task"):
            solved(torch.tensor([0.0, 1, 0, 0], requires_grad=True), None)

    def test_unseen_classes_leave_the_softmax_when_restricted(self):
        solution = solved((0.5, 0.5, 0, 0), restrict_classes=True)
        last = "2.bias"  # of the class that the teacher does not know
        assert solution.params[last][2] == parameters(student())[last][2]
        free = solved((0.5, 0.5, 0, 0))
        assert free.params[last][2] < parameters(student())[last][2]

    def test_a_given_loss_on_real_targets(self):
        def squared(outputs, targets):
            return ((outputs - targets) ** 2).mean(1)

        solution = solved(data=(X, randn(40, 2)), loss=squared, restrict_classes=True)
        assert solution.objective < solution.start_objective

    def test_a_plain_callable_lifts(self):
        wide = mlp(6, 5, 3, seed=2)

        def pad(x):
            return nn.functional.pad(x, (0, 2))

        solution = initialize(teacher(), wide, QUARTERS, (X, Y), lift=pad, solver=QUICK)
        assert solution.objective < solution.start_objective
        assert solution.params["0.weight"].shape == (5, 6)

    def test_frozen_parameters_stay(self):
        large = student()
        large[0].weight.requires_grad_(False)
        solution = initialize(teacher(), large, QUARTERS, (X, Y), solver=QUICK)
        assert "0.weight" not in solution.params
        kept = dict(solution.student.named_parameters())["0.weight"]
        assert torch.equal(kept[:3], parameters(teacher())["0.weight"])
        assert not kept.requires_grad
        assert not torch.equal(
            solution.params["2.weight"][:2, :3], parameters(teacher())["2.weight"]
        )

    def test_integer_inputs_have_no_neighbours_but_every_other_term(self):
        def tagger(width, classes):
            torch.manual_seed(width)
            return nn.Sequential(
                nn.Embedding(7, width), nn.Flatten(), nn.Linear(3 * width, classes)
            ).double()

        with torch.random.fork_rng():
            small, large = tagger(2, 2), tagger(4, 3)
        tokens = torch.randint(7, (40, 3), generator=generator())
        solution = initialize(small, large, (0.4, 0.3, 0, 0.3), (tokens, Y), solver=QUICK)
        assert list(solution.terms) == ["task", "proximity", "curvature"]
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
        solution = initialize(small, large, QUARTERS, (X, Y), solver=QUICK)
        kept = dict(solution.student.named_buffers())
        assert torch.equal(kept["1.running_mean"][:3], small[1].running_mean)
        assert not storages(solution.student) & storages(small, large)
        assert large[1].num_batches_tracked == 0

    def test_float32_data_for_a_float64_model(self):
        assert solved(data=(X.float(), Y)).params["0.weight"].dtype == torch.float64


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_of_lambdas_in_another_dtype_than_the_model(dtype):
    point = torch.tensor(QUARTERS, dtype=dtype, requires_grad=True)
    solution = initialize(teacher().float(), student().float(), point, (X, Y), solver=QUICK)
    assert solution.params["0.weight"].dtype == torch.float32
    assert not solution.params["0.weight"].requires_grad
    rows = [line.split()[:2] for line in str(solution).splitlines()]
    assert ["curvature", "0.25"] in rows
