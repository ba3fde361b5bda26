"""The derivative by taking the steps again, against unrolling, closed forms and central differences."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torchopt
from hypothesis import given, settings
from hypothesis import strategies as st

from phiopt.bilevel import AdjointError, Replay, Unroll
from phiopt.objective import Frobenius, Lambdas
from phiopt.optimizers import clipped, masked, normalised
from phiopt.solve import TorchOpt
from tests.bilevel.problems import LAMBDAS, at, claimed, inputs, outer, regression, slopes
from tests.bilevel.solving import FRESH, solved
from tests.cases import changed, randn, ridge

OPTIMIZERS = {
    "sgd": torchopt.sgd(0.05),
    "momentum": torchopt.sgd(0.02, momentum=0.9),
    "nesterov": torchopt.sgd(0.02, momentum=0.9, nesterov=True),
    "adam": torchopt.adam(1e-2, eps_root=1e-16),
    "adamw": torchopt.adamw(1e-2, eps_root=1e-16),
    "rmsprop": torchopt.rmsprop(1e-2, eps=1e-4),
    "schedule": torchopt.sgd(torchopt.schedule.polynomial_schedule(0.05, 0.001, 1, 10)),
    "clipped": clipped(torchopt.sgd(0.05), 0.5),
    "default": None,
}


QUICK = {"adam", "rmsprop", "schedule", "clipped", "default"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in OPTIMIZERS]
)
def test_replay_is_unroll_for_any_optimizer(name):
    objective, start = regression()
    solver = replace(FRESH, optimizer=OPTIMIZERS[name], steps=6)
    results = []
    for adjoint in (Replay(), Unroll()):
        theta = inputs(objective)
        w0 = {k: v.clone().requires_grad_() for k, v in start.items()}
        outcome = solved(adjoint, at(objective, theta), w0, solver)
        assert outcome.stats.steps == 6
        results.append(torch.autograd.grad(outer(outcome.params), [*theta.values(), *w0.values()]))
    for replayed, unrolled in zip(*results, strict=True):
        assert replayed.any()
        torch.testing.assert_close(replayed, unrolled, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fresh", [True, False])
def test_a_net_against_central_differences(fresh):
    objective, start = regression()
    solver = replace(FRESH, fresh=fresh, steps=6)
    theta = inputs(objective)

    def solve(adjoint, t):
        return solved(adjoint, at(objective, t), start, solver).params

    expected = pytest.approx(slopes(partial(solve, Replay()), theta, 1e-5), rel=1e-5)
    for adjoint in (Replay(), Unroll()):
        assert claimed(partial(solve, adjoint), theta) == expected


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [None, 7])
@pytest.mark.parametrize(
    "curvature",
    [
        Frobenius(batch=0.5),
        Frobenius(probes=2, every=2),
        Frobenius(matrix="gauss-newton"),
    ],
    ids=["two batches", "every", "gauss-newton"],
)
def test_cheap_gradients_are_differentiated_as_the_steps_they_make(curvature, micro_batch):
    """A step may hold a part of the curvature fixed; that part moves with w from step to step."""
    objective, start = regression(count=60)
    objective = changed(objective, curvature=curvature, micro_batch=micro_batch)
    theta = inputs(objective)
    solver = replace(FRESH, steps=5, check_every=5, batch_size=40)

    def solve(t):
        return solved(Replay(), at(objective, t), start, solver).params

    assert claimed(solve, theta) == pytest.approx(slopes(solve, theta, 1e-5), rel=1e-5)


@given(steps=st.integers(1, 20), rate=st.floats(0.01, 0.4), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_the_quadratic_against_its_closed_form(steps, rate, seed):
    """The proximity alone: w_k − u = (1 − 2η)^k (w_0 − u) at the teacher's places."""
    u = randn(4, seed=seed).requires_grad_()
    w0 = randn(1, 6, seed=seed + 1).requires_grad_()
    objective = changed(
        ridge().objective(), data=None, lambdas=Lambdas(0, 1, 0, 0), teacher={"weight": u[None]}
    )
    solver = TorchOpt(torchopt.sgd(rate), steps=steps, fresh=False)
    solution = solved(Replay(), objective, {"weight": w0}, solver).params["weight"][0]
    shrink = (1 - 2 * rate) ** steps
    expected = torch.cat([u + shrink * (w0[0, :4] - u), w0[0, 4:]])
    torch.testing.assert_close(solution, expected)
    target = randn(6, seed=seed + 2)
    ours = torch.autograd.grad(((solution - target) ** 2).sum(), [u, w0])
    truth = torch.autograd.grad(((expected - target) ** 2).sum(), [u, w0])
    torch.testing.assert_close(ours, truth)


@pytest.mark.slow
def test_ridge_against_its_closed_form():
    """A solve that converges forgets its start: what is left is the minimiser's derivative."""
    case = ridge()
    tensors = case.inputs()
    moved = replace(case, lambdas=Lambdas.of(tensors[0]), delta=tensors[1], u=tensors[2])
    solver = TorchOpt(
        torchopt.sgd(0.2, momentum=0.8), steps=800, batch_size=None, fresh=False, tol=1e-10
    )
    outcome = solved(Replay(), moved.objective(), case.start, solver)
    expected = moved.argmin(outcome.saa_samples[0].draws["noise"][0])
    target = randn(6, seed=11)
    ours = torch.autograd.grad(((outcome.params["weight"][0] - target) ** 2).sum(), tensors)
    truth = torch.autograd.grad(((expected - target) ** 2).sum(), tensors)
    for actual, wanted in zip(ours, truth, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-6)


def test_values_are_those_of_the_plain_solve_and_repeat():
    objective, start = regression()
    theta = inputs(objective)
    moved = at(objective, theta)
    plain = FRESH.solve(objective, start)
    grads = []
    for _ in range(2):
        outcome = solved(Replay(), moved, start, FRESH)
        assert outcome.history == plain.history
        assert all(torch.equal(outcome.params[n], p) for n, p in plain.params.items())
        grads.append(torch.autograd.grad(outer(outcome.params), list(theta.values())))
    assert all(map(torch.equal, *grads))


@pytest.mark.slow
def test_the_path_ends_at_the_best_iterate():
    """A rate too long at the end: the solver returns an earlier iterate, and so does the adjoint."""
    objective, start = regression()
    rising = torchopt.sgd(lambda step: 0.02 if int(step) < 6 else 2.0)
    solver = replace(FRESH, optimizer=rising, check_every=2, fresh=True)
    theta = inputs(objective)

    def solve(t):
        return solved(Replay(), at(objective, t), start, solver).params

    short = replace(solver, optimizer=torchopt.sgd(0.02), steps=6)
    outcome = solved(Replay(), objective, start, short)
    assert all(torch.equal(solve(theta)[n], p) for n, p in outcome.params.items())
    assert claimed(solve, theta) == pytest.approx(slopes(solve, theta, 1e-5), rel=1e-5)


def test_a_start_that_is_kept_depends_on_nothing_else():
    objective, start = regression()
    w0 = {k: v.clone().requires_grad_() for k, v in start.items()}
    theta = inputs(objective)
    hopeless = replace(FRESH, optimizer=torchopt.sgd(1e3))
    solution = solved(Replay(), at(objective, theta), w0, hopeless).params
    gradient = torch.autograd.grad(outer(solution), [*w0.values(), theta["lambdas"]])
    expected = torch.autograd.grad(outer(w0), list(w0.values()))
    torch.testing.assert_close(gradient[:-1], expected)
    assert not gradient[-1].any()


def test_it_goes_through_torch_func():
    objective, start = regression()
    theta = inputs(objective)

    def loss(lambdas, adjoint):
        moved = at(objective, theta | {"lambdas": lambdas})
        return outer(solved(adjoint, moved, start, FRESH).params)

    expected = torch.autograd.grad(loss(theta["lambdas"], Replay()), theta["lambdas"])[0]
    point = torch.tensor(LAMBDAS, dtype=torch.float64)
    for adjoint in (Replay(), Unroll()):
        gradients = torch.func.grad(loss)(point, adjoint)
        torch.testing.assert_close(gradients, expected)


def test_clipped_steps_against_central_differences():
    objective, start = regression()
    solver = TorchOpt(clipped(torchopt.sgd(0.1), 0.1), steps=5, batch_size=10)
    theta = inputs(objective)

    def solve(adjoint, t):
        return solved(adjoint, at(objective, t), start, solver).params

    expected = pytest.approx(slopes(partial(solve, Replay()), theta, 1e-5), rel=1e-4)
    for adjoint in (Replay(), Unroll()):
        assert claimed(partial(solve, adjoint), theta) == expected


@pytest.mark.parametrize("adjoint", [Replay(), Unroll(), Unroll(last=2)], ids=str)
@pytest.mark.parametrize("wrap", [None, "masked", "normalised"])
def test_clipping_by_a_constant_factor_is_refused(adjoint, wrap):
    objective, start = regression()
    optimizer = torchopt.chain(torchopt.clip.clip_grad_norm(0.1), torchopt.sgd(0.1))
    if wrap == "masked":
        free = {name: torch.ones_like(value, dtype=torch.bool) for name, value in start.items()}
        optimizer = masked(optimizer, free)
    elif wrap == "normalised":
        optimizer = normalised(optimizer)
    solver = TorchOpt(optimizer, steps=5, batch_size=10)
    with pytest.raises(AdjointError, match=r"phiopt\.optimizers\.clipped"):
        solved(adjoint, at(objective, inputs(objective)), start, solver)
