"""NaN and Inf at random steps in loss, gradient, Hessian-vector product and data; a source that
raises midway. The best iterate survives, and the status says what happened.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchopt
from torch.utils.data import DataLoader, Dataset

import phiopt
from phiopt.objective import CurvatureTerm, Frobenius, Spectral
from phiopt.solve import LBFGS, NewtonCG, SolveError, Status, TorchOpt
from phiopt.solve.solver import RETRIES
from tests.cases import classification, flatten, generator, mlp, randn

SOLVERS = {
    "torchopt": TorchOpt(torchopt.sgd(0.05), steps=25, batch_size=8, check_every=5),
    "frozen torchopt": TorchOpt(torchopt.sgd(0.05), steps=25, batch_size=None, fresh=False),
    "lbfgs": LBFGS(draws=1, tol=1e-2),
    "trust-krylov": NewtonCG(draws=1, tol=1e-2),
    "newton-cg": NewtonCG("newton-cg", draws=1, tol=1e-2),
}
VALUES = [torch.nan, pytest.param(torch.inf, marks=pytest.mark.slow)]
STEPS = [int(step) for step in np.random.default_rng(0).integers(10, 60, 3)]
STEPS_AND_SLOW = [STEPS[0], *(pytest.param(step, marks=pytest.mark.slow) for step in STEPS[1:])]


class Poison(torch.autograd.Function):
    """The identity, whose value or derivative of the given order is ``value``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, order, value):
        return x + value if order == 0 else x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.order, ctx.value = inputs[1:]

    @staticmethod
    def backward(ctx, grad):
        return Poison.apply(grad, ctx.order - 1, ctx.value), None, None


class Faulty:
    """An objective's loss that is poisoned at the calls in ``when``."""

    def __init__(self, objective, when, order, value):
        self.loss, self.when, self.order, self.value = objective.loss, when, order, value
        self.calls = 0

    def __call__(self, outputs, targets):
        self.calls += 1
        if self.calls in self.when:
            outputs = Poison.apply(outputs, self.order, self.value)
        return self.loss(outputs, targets)


def poisoned(when, order=0, value=torch.nan, lambdas=(0.4, 0.3, 0.3, 0)):
    objective, start = classification(lambdas, curvature=Frobenius(probes=1), count=30)
    loss = Faulty(objective, when, order, value)
    return replace(objective, loss=loss), start


def survived(actual, start):
    assert actual.objective <= actual.start_objective
    assert np.isfinite(actual.objective)
    assert all(np.isfinite(actual.terms[name]) for name in ("task", "proximity", "noise"))
    assert flatten(actual.params).isfinite().all()
    assert flatten(start).isfinite().all()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("order", [0, 1], ids=["loss", "gradient"])
@pytest.mark.parametrize("step", STEPS_AND_SLOW)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_one_fault_at_a_random_step_is_survived(solver, step, order, value):
    objective, start = poisoned({step}, order, value)
    outcome = solver.solve(objective, start)
    survived(outcome, start)
    assert outcome.status in (Status.SOLVED, Status.BUDGET_SPENT)
    assert outcome.objective < outcome.start_objective
    assert outcome.stats.rollbacks <= 1


@pytest.mark.parametrize("name", ["trust-krylov", "newton-cg"])
@pytest.mark.parametrize("value", VALUES)
def test_a_fault_in_a_hessian_vector_product_is_rolled_back(name, value):
    objective, start = poisoned({5}, order=2, value=value)
    actual = SOLVERS[name].solve(objective, start)
    survived(actual, start)
    assert actual.status is Status.SOLVED
    assert actual.stats.rollbacks == 1


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_fault_in_the_products_of_the_curvature_term(solver, value):
    objective, start = poisoned({31}, 2, value, lambdas=(0.3, 0.3, 0.3, 0.1))
    if not isinstance(solver, TorchOpt):
        solver = replace(solver, tol=0.1)
    outcome = solver.solve(objective, start)
    survived(outcome, start)
    assert outcome.status in (Status.SOLVED, Status.BUDGET_SPENT)
    assert outcome.stats.rollbacks <= 1


ESTIMATORS = {
    "default": Frobenius(),
    "every 3rd step": Frobenius(every=3),
    "probes": Frobenius(probes=2, distribution="gaussian"),
    "gauss-newton": Frobenius(matrix="gauss-newton"),
    "spectral": Spectral(iterations=2),
}
ESTIMATORS_AND_SLOW = [
    name if name in ("default", "gauss-newton") else pytest.param(name, marks=pytest.mark.slow)
    for name in ESTIMATORS
]


@pytest.mark.parametrize("order", [0, 1, 2], ids=["loss", "gradient", "product"])
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", ESTIMATORS_AND_SLOW)
def test_faults_at_random_calls_of_the_default_step_are_survived(name, value, order):
    """Also where the scores are computed by which a step chooses its examples."""
    objective, start = classification((0.3, 0.3, 0.2, 0.2), curvature=ESTIMATORS[name], count=80)
    assert Frobenius().part(64) == 8
    draw = np.random.default_rng(list(ESTIMATORS).index(name))
    when = {int(call) for call in draw.integers(13, 48, RETRIES)}  # the first 12 judge the start
    loss = Faulty(objective, when, order, value)
    solver = TorchOpt(steps=10, batch_size=64, check_every=5)
    outcome = solver.solve(replace(objective, loss=loss), start)
    assert loss.calls > max(when)
    survived(outcome, start)
    assert outcome.status is Status.BUDGET_SPENT
    assert outcome.objective < outcome.start_objective
    assert outcome.stats.rollbacks <= len(when)


@pytest.mark.parametrize("order", [0, 1], ids=["loss", "gradient"])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_the_best_iterate_survives_a_loss_that_stays_bad(solver, order):
    objective, start = poisoned(range(30, 10**6), order)
    outcome = replace(solver, tol=1e-12).solve(objective, start)
    survived(outcome, start)
    assert outcome.status is Status.NON_FINITE
    assert outcome.stats.rollbacks == RETRIES
    assert objective.loss.calls < 200  # it gave up


@pytest.mark.parametrize("steps", [1, RETRIES])
@pytest.mark.parametrize("fresh", [False, True])
def test_too_few_steps_to_give_up_do_not_hide_a_gradient_that_is_never_finite(steps, fresh):
    """To say that it stalled would blame rounding."""
    objective, start = poisoned(range(10**6), order=1)
    outcome = TorchOpt(torchopt.sgd(0.05), steps=steps, fresh=fresh).solve(objective, start)
    survived(outcome, start)
    assert outcome.status is Status.NON_FINITE


def test_nan_does_not_stop_the_search_for_the_largest_eigenvalue():
    objective, start = poisoned(range(60, 10**6), 2, torch.nan, lambdas=(0.3, 0.3, 0.3, 0.1))
    objective = objective.with_term(CurvatureTerm(Spectral(iterations=3)))
    actual = replace(SOLVERS["torchopt"], steps=40).solve(objective, start)
    survived(actual, start)
    assert actual.status is Status.NON_FINITE
    assert actual.stats.rollbacks == RETRIES


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_start_that_is_not_finite_is_no_start(solver):
    objective, start = poisoned(range(10**6))
    outcome = solver.solve(objective, start)
    assert outcome.status is Status.NON_FINITE
    assert outcome.stats.steps == 0
    assert torch.equal(flatten(outcome.params), flatten(start))


class Breaking(Dataset):
    """Raises ``fault``, or gives it as a pixel, from the read number ``after`` on."""

    def __init__(self, after, fault):
        self.x, self.y = randn(40, 4, seed=3), torch.randint(2, (40,), generator=generator(4))
        self.after, self.fault, self.reads = after, fault, 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        self.reads += 1
        if self.reads <= self.after:
            return self.x[i], self.y[i]
        if isinstance(self.fault, Exception):
            raise self.fault
        return torch.full_like(self.x[i], self.fault), self.y[i]


FAULTS = {
    "raises": (OSError("the disk is gone"), "the disk is gone"),
    "nan": (torch.nan, "inputs hold NaN or infinity"),
    "inf": (-torch.inf, "inputs hold NaN or infinity"),
}


def fitted(data, **options):
    """``phiopt.initialize`` on data that break."""
    solver = TorchOpt(torchopt.sgd(0.05), steps=60, batch_size=8, check_every=5)
    options = {"scale": "paper", "solver": solver} | options
    return phiopt.initialize(
        mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2), (0.4, 0.3, 0.3, 0), data, **options
    )


@pytest.mark.parametrize("loader", [False, True], ids=["data set", "loader"])
@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS)
def test_data_that_break_midway_leave_the_best_iterate(fault, message, loader):
    source = Breaking(after=8 * 40, fault=fault)
    data = DataLoader(source, batch_size=8, shuffle=True) if loader else source
    with pytest.raises(SolveError, match=r"^DATA_FAILED") as caught:
        fitted(data)
    solution = caught.value.solution
    assert message in str(caught.value.__cause__)
    assert solution.error is caught.value.__cause__
    assert solution.objective < solution.start_objective
    assert solution.certificate.objective < solution.certificate.start_objective
    assert 0 < solution.stats.steps < 60
    values = torch.cat([p.flatten() for p in solution.student.parameters()])
    assert values.isfinite().all()


def test_without_throw_the_error_is_in_the_solution():
    solution = fitted(Breaking(8 * 40, OSError("gone")), throw=False)
    assert solution.status is Status.DATA_FAILED
    assert isinstance(solution.error, OSError)


@pytest.mark.slow
@pytest.mark.parametrize("after", [900, 1170], ids=["steps", "judges"])
def test_data_that_break_in_a_restart_leave_the_first_solution(after):
    """A solve reads 8 judges and 60 steps of 8 examples; before the first come 46 reads more."""
    alone = fitted(Breaking(10**6, OSError("gone")))
    source = Breaking(after, OSError("gone"))
    with pytest.raises(SolveError, match=r"^DATA_FAILED") as caught:
        fitted(source, restarts=3)
    solution = caught.value.solution
    assert solution.error is caught.value.__cause__
    assert len(solution.certificate.restarts) < 3
    assert torch.equal(flatten(solution.params), flatten(alone.params))


@pytest.mark.parametrize("solver", [LBFGS(draws=2), NewtonCG(draws=2)], ids=["lbfgs", "newton"])
def test_data_that_break_before_the_first_step_are_a_plain_error(solver):
    """Frozen draws are read first of all: nothing is lost yet."""
    with pytest.raises(OSError, match="gone"):
        fitted(Breaking(60, OSError("gone")), solver=solver)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_an_interrupt_keeps_the_best_iterate(solver):
    objective, start = classification((0.4, 0.3, 0.3, 0), count=30)
    before = flatten(start)
    calls = iter(range(30))

    def loss(outputs, targets):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return objective.loss(outputs, targets)

    outcome = solver.solve(replace(objective, loss=loss), start)
    assert outcome.status is Status.INTERRUPTED
    assert isinstance(outcome.error, KeyboardInterrupt)
    assert outcome.objective <= outcome.start_objective
    assert np.isfinite(outcome.objective)
    assert torch.equal(flatten(start), before)
