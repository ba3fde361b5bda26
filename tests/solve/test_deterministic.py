from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.func import functional_call

from phiopt.data import Data
from phiopt.objective import Frobenius, Gaussian, Spectral, Stream, paper_objective
from phiopt.solve import LBFGS, NewtonCG, Status
from phiopt.solve.saa import PATIENCE
from tests.cases import (
    CPU,
    changed,
    classification,
    dense_hessian,
    flatten,
    logistic,
    mlp,
    parameters,
    randn,
    ridge,
)

NEWTONS = [NewtonCG(method="trust-krylov"), NewtonCG(method="newton-cg")]
SOLVERS = [LBFGS(tol=1e-9), *(replace(solver, tol=1e-9) for solver in NEWTONS)]
NAMES = ["lbfgs", "trust-krylov", "newton-cg"]
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
each_solver_newton_slow = pytest.mark.parametrize(
    "solver",
    [SOLVERS[0], *(pytest.param(s, marks=pytest.mark.slow) for s in SOLVERS[1:])],
    ids=NAMES,
)


def gradient(objective, params, samples):
    each = [flatten(objective.value_and_grad(params, sample)[2]) for sample in samples]
    return torch.stack(each).mean(0)


@each_solver
def test_a_quadratic_is_solved_in_closed_form(solver):
    """λ = (0, 1, 0, 0): u at its places, the start elsewhere, without data."""
    objective, start = classification((0, 1, 0, 0))
    outcome = solver.solve(replace(objective, data=None), start)
    assert outcome.status is Status.SOLVED
    assert outcome.stats.forward == 0
    assert len(outcome.saa_samples) == 1
    for name, value in objective.term("proximity").teacher.items():
        places = tuple(slice(n) for n in value.shape)
        torch.testing.assert_close(outcome.params[name][places], value, rtol=1e-8, atol=1e-8)
    assert torch.equal(outcome.params["0.weight"][3:], start["0.weight"][3:])


@each_solver
def test_ridge_is_the_solution_of_its_linear_system(solver):
    case = ridge()
    objective = case.objective()
    outcome = replace(solver, draws=4).solve(objective, case.start, seed=3)
    samples = [objective.sample(case.start, None, 3, Stream.TRAIN, i) for i in range(4)]
    noise = torch.cat([sample.draws["noise"][0] for sample in samples])
    expected = replace(case, samples=noise.shape[0]).argmin(noise)
    assert outcome.status is Status.SOLVED
    torch.testing.assert_close(outcome.params["weight"][0], expected, rtol=1e-8, atol=1e-8)


@each_solver
def test_logistic_regression_is_what_scipy_finds_by_itself(solver):
    objective, start = logistic()
    x, y = objective.data.batch(None, torch.Generator())
    x, u = np.c_[x.numpy(), np.ones(len(x))], objective.term("proximity").teacher
    target = np.eye(3)[y.numpy()]
    prior = np.c_[u["0.weight"].numpy(), u["0.bias"].numpy()]

    def value_and_grad(flat):
        w = flat.reshape(3, 6)
        logits = x @ w.T
        shifted = logits - logits.max(1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        value = 0.7 * -(target * log_p).sum(1).mean() + 0.3 * ((w - prior) ** 2).sum()
        slope = 0.7 * (np.exp(log_p) - target).T @ x / len(x) + 0.6 * (w - prior)
        return value, slope.ravel()

    by_hand = minimize(value_and_grad, prior.ravel(), jac=True, method="BFGS", tol=1e-12)
    expected = torch.from_numpy(by_hand.x.reshape(3, 6))
    outcome = solver.solve(objective, start)
    assert outcome.status is Status.SOLVED
    got = torch.cat([outcome.params["0.weight"], outcome.params["0.bias"][:, None]], 1)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
    assert outcome.objective == pytest.approx(by_hand.fun, abs=1e-12)


@pytest.mark.parametrize(
    "lambdas",
    [pytest.param((0.3, 0.2, 0.3, 0.2), marks=pytest.mark.slow), (0.3, 0.4, 0.3, 0)],
    ids=str,
)
def test_all_agree_on_a_smooth_net(lambdas):
    """Every term, at the same draws: one minimum, and a gradient norm of at most 1e-6. The teacher
    has all the student's coordinates, for others have no finite minimiser here.
    """
    objective, start = classification(lambdas, curvature=Frobenius(probes=1), count=20)
    teacher = parameters(mlp(4, 5, 3, seed=8))
    objective = changed(objective, teacher=teacher, extract=dict)
    points = []
    for solver in SOLVERS:
        outcome = replace(solver, tol=1e-6, draws=2).solve(objective, start)
        assert outcome.status is Status.SOLVED
        ratio = gradient(objective, outcome.params, outcome.saa_samples).norm()
        ratio /= gradient(objective, start, outcome.saa_samples).norm()
        assert ratio <= 1e-6
        points.append(flatten(outcome.params))
    for other in points[1:]:
        torch.testing.assert_close(other, points[0], rtol=0, atol=1e-5)


def saddle(size=1.0):
    """(w0² − 1)² / 4 + w1² at w0 = 0: a maximum along w0, two minima at ±1."""

    class Double(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([size * 1e-3, 1.0], dtype=torch.float64))

        def forward(self, x):
            value = (self.w[0] ** 2 - 1) ** 2 / 4 + self.w[1] ** 2
            return value.expand(len(x), 1)

    module = Double()
    return paper_objective(
        model=lambda params, x: functional_call(module, params, (x,)),
        teacher={"w": torch.zeros(1, dtype=torch.float64)},
        extract=lambda w: {"w": w["w"][:1]},
        loss=lambda outputs, targets: outputs[:, 0],
        lambdas=ridge().lambdas.of((0.999, 0.001, 0, 0)),
        data=Data((randn(3, 1), randn(3, 1)), CPU, torch.float64),
    ), {"w": module.w.detach().clone()}


@each_solver
def test_a_saddle_is_left_for_a_minimum(solver):
    objective, start = saddle()
    outcome = solver.solve(objective, start)
    assert outcome.status is Status.SOLVED
    assert abs(float(outcome.params["w"][0])) == pytest.approx(0.999, abs=1e-3)
    hessian = dense_hessian(lambda w: objective.value(w, outcome.saa_samples[0]), outcome.params)
    assert torch.linalg.eigvalsh(hessian)[0] > 0


@each_solver_newton_slow
def test_the_spectral_curvature_is_minimised_too(solver):
    objective, start = classification(curvature=Spectral(iterations=2), count=12)
    outcome = replace(solver, tol=1e-3, draws=1, steps=8).solve(objective, start)
    assert outcome.status is not Status.NON_FINITE
    assert outcome.objective < 0.7 * outcome.start_objective


def test_the_frozen_sample_is_the_mean_of_its_draws():
    objective, start = classification(count=40)
    outcome = LBFGS(batch_size=10, draws=3, steps=5).solve(objective, start, seed=5)
    samples = [objective.sample(start, 10, 5, Stream.TRAIN, i) for i in range(3)]
    for ours, theirs in zip(outcome.saa_samples, samples, strict=True):
        assert torch.equal(ours.inputs, theirs.inputs)
    values = [objective.value(outcome.params, sample) for sample in samples]
    assert outcome.objective == pytest.approx(float(torch.stack(values).mean()))
    weights = dict(objective.lambdas.items())
    assert outcome.objective == pytest.approx(sum(weights[n] * outcome.terms[n] for n in weights))


@each_solver_newton_slow
def test_history_counts_and_repeats(solver):
    objective, start = classification(curvature=Frobenius(probes=1))
    solver = replace(solver, draws=2, tol=0.1)
    before = flatten(start)
    first, again = (solver.solve(objective, start, seed=1) for _ in range(2))
    assert torch.equal(flatten(first.params), flatten(again.params))
    assert torch.equal(flatten(start), before)
    values = [record["objective"] for record in first.history]
    assert values == sorted(values, reverse=True)
    assert first.stats.steps == len(first.history)
    assert first.stats.gradient >= 2 * first.stats.steps
    assert first.stats.hvp >= first.stats.gradient  # a probe to a gradient
    assert first.stats.rollbacks == 0
    other = solver.solve(objective, start, seed=2)
    assert not torch.equal(flatten(first.params), flatten(other.params))


@each_solver_newton_slow
def test_running_out_of_steps_is_a_failure_with_the_best_iterate(solver):
    objective, start = classification(count=30)
    outcome = replace(solver, steps=2, tol=1e-9).solve(objective, start)
    assert outcome.status is Status.STEP_LIMIT
    assert outcome.stats.steps == 2
    assert outcome.objective == outcome.history[-1]["objective"] < outcome.start_objective


@each_solver_newton_slow
def test_rounding_ends_as_a_stall(solver):
    objective, start = logistic()
    x, y = objective.data.batch(None, torch.Generator())
    objective = changed(
        objective,
        data=Data((x, y), CPU, torch.float32),
        teacher={
            name: value.float() for name, value in objective.term("proximity").teacher.items()
        },
    )
    start = {name: value.float() for name, value in start.items()}
    outcome = replace(solver, tol=1e-13).solve(objective, start)
    assert outcome.status is Status.STALLED
    assert outcome.objective < outcome.start_objective
    assert outcome.params["0.weight"].dtype == torch.float32
    assert outcome.stats.gradient < 8 * (30 * outcome.stats.steps + 2 * PATIENCE)


def test_nothing_to_do_is_solved_at_once():
    objective, start = classification((0, 1, 0, 0))
    objective = changed(objective, data=None, teacher={k: v.clone() for k, v in start.items()})
    outcome = LBFGS().solve(changed(objective, extract=dict), start)
    assert outcome.status is Status.SOLVED
    assert outcome.stats.steps == 0


@pytest.mark.slow
def test_more_noise_samples_come_nearer_to_the_expectation():
    """The argmin on N frozen draws tends to that of the expectation."""
    case = replace(ridge(samples=1), delta=1.0)
    objective = changed(case.objective(), neighbourhood=Gaussian(1.0))
    errors = [
        float(
            (LBFGS(draws=n).solve(objective, case.start).params["weight"][0] - case.argmin()).norm()
        )
        for n in (2, 200)
    ]
    assert errors[1] < 0.3 * errors[0]


def test_progress_is_quiet_in_a_pipe(capsys):
    objective, start = classification()
    LBFGS(draws=1, steps=3).solve(objective, start, progress=True)
    assert capsys.readouterr() == ("", "")


def test_one_graph_serves_all_products_at_an_iterate():
    objective, start = classification((0.5, 0.5, 0, 0), curvature=Frobenius())
    one = NewtonCG(draws=1, batch_size=None, tol=1e-2).solve(objective, start)
    two = NewtonCG(draws=2, batch_size=None, tol=1e-2).solve(objective, start)
    torch.testing.assert_close(one.params, two.params)  # nothing is sampled
    assert one.stats.gradient <= 3 * one.stats.steps
    assert two.stats.gradient >= two.stats.hvp


@pytest.mark.parametrize("kind", [LBFGS, NewtonCG])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps: got 0"),
        ({"draws": 0}, ValueError, "draws: got 0"),
        ({"batch_size": 0}, ValueError, "batch_size: got 0"),
        ({"tol": 0.0}, ValueError, "tol: got 0.0"),
        ({"tol": float("nan")}, ValueError, "tol: got nan"),
        ({"tol": None}, TypeError, "tol: got None"),
    ],
)
def test_bad_options_are_named(kind, options, error, message):
    with pytest.raises(error, match=message):
        kind(**options)


def test_other_bad_options_are_named():
    with pytest.raises(ValueError, match="memory: got 0"):
        LBFGS(memory=0)
    with pytest.raises(ValueError, match="method: got 'bfgs', must be one of trust-krylov"):
        NewtonCG(method="bfgs")
