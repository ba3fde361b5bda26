"""What the adjoints share: their inputs, derivatives at the edges of the simplex and in fills, and what they refuse."""

from dataclasses import replace

import pytest
import torch
import torchopt
from torch import nn

from phiopt import GrowthMap, grow, initialize
from phiopt.bilevel import CG, AdjointError, Implicit, Replay, Unroll
from phiopt.bilevel.adjoint import differentiable_inputs, without_grad
from phiopt.objective import Corruption, CurvatureTerm, Frobenius, Lambdas, Spectral, Stream
from phiopt.solve import LBFGS, TorchOpt
from tests.bilevel.problems import LAMBDAS, at, inputs, outer, regression
from tests.bilevel.solving import BOTH, STEPS, solved
from tests.cases import changed, mlp, randn


def test_the_inputs_are_the_tensors_that_require_grad():
    objective, start = regression()
    assert differentiable_inputs(objective, start) == {}
    theta = inputs(objective)
    actual = differentiable_inputs(at(objective, theta), start)
    names = [f"lambdas.{n}" for n, _ in objective.lambdas.items()] + ["neighbourhood.delta"]
    names += [f"teacher.{n}" for n in objective.term("proximity").teacher]
    assert sorted(actual) == sorted(names)
    w0 = {"0.bias": start["0.bias"].requires_grad_()}
    assert list(differentiable_inputs(objective, start | w0)) == ["start.0.bias"]


def test_other_inputs_make_another_objective():
    objective, start = regression()
    theta = inputs(objective)
    moved = at(objective, theta)
    given = differentiable_inputs(moved, start)
    sample = objective.sample(start, None, 0, Stream.TRAIN, 0)
    assert torch.equal(
        objective.with_tensors(given).value(start, sample), moved.value(start, sample)
    )
    plain, _ = without_grad(moved, start)
    assert differentiable_inputs(plain, start) == {}
    assert torch.equal(plain.value(start, sample), moved.value(start, sample))
    assert moved.lambdas.task.requires_grad


@BOTH
def test_without_inputs_it_is_the_plain_solve(adjoint):
    objective, start = regression()
    actual, plain = solved(adjoint, objective, start), STEPS.solve(objective, start)
    assert not any(p.requires_grad for p in actual.params.values())
    assert all(torch.equal(actual.params[n], p) for n, p in plain.params.items())


@pytest.mark.parametrize(
    ("adjoint", "solver"),
    [
        (None, STEPS),
        (Replay(), STEPS),
        (Implicit(CG(1e-3, 2000), tol=1e-2), LBFGS(steps=2000, tol=1e-2, draws=1)),
    ],
    ids=["none", "replay", "implicit"],
)
def test_autocast_around_the_solve_and_the_backward_pass_is_without_effect(adjoint, solver):
    """It rounds to three digits, and a step taken again outside of it would end elsewhere."""
    x, y = randn(40, 4, seed=3).float(), randn(40, 2, seed=4).float()

    def slope(solve, back):
        point = torch.tensor([0.4, 0.4, 0.2], requires_grad=adjoint is not None)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=solve):
            actual = initialize(
                nn.Linear(4, 2).requires_grad_(False).float(),
                nn.Linear(4, 2).float(),
                Lambdas(*point, 0.0),
                (x, y),
                loss=lambda outputs, targets: ((outputs - targets) ** 2).mean(1),
                solver=solver,
                adjoint=adjoint,
            )
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=back):
            return actual, adjoint and torch.autograd.grad(outer(actual.params), point)[0]

    torch.manual_seed(0)
    plain, expected = slope(False, False)
    for solve, back in ((True, False), (True, True)):
        torch.manual_seed(0)
        actual, there = slope(solve, back)
        assert actual.objective == plain.objective
        assert all(torch.equal(actual.params[n], p) for n, p in plain.params.items())
        if adjoint is not None:  # the sum itself is rounded where autocast is on
            torch.testing.assert_close(there, expected, rtol=2e-2 if back else 0, atol=0)


@BOTH
def test_a_roll_back_is_no_smooth_path(adjoint):
    objective, start = regression()
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        bad = torch.nan if len(calls) == 80 else 0.0
        return objective.loss(outputs, targets) + bad

    with pytest.raises(AdjointError, match="rolled back"):
        solved(adjoint, replace(objective, loss=loss), start, replace(STEPS, steps=40))


def impure():
    """TorchOpt's dampening remembers its first call outside of the state."""
    return replace(STEPS, optimizer=torchopt.sgd(0.02, momentum=0.9, dampening=0.8))


@pytest.mark.parametrize("adjoint", [Replay(), Unroll(last=4)], ids=str)
def test_an_impure_optimizer_is_found_out_where_steps_are_taken_again(adjoint):
    objective, start = regression()
    theta = inputs(objective)
    solver = impure()
    with pytest.raises(AdjointError, match="taken again, ends elsewhere"):
        outer(solved(adjoint, at(objective, theta), start, solver).params).backward()


@BOTH
def test_a_derivative_that_is_not_finite_is_refused(adjoint):
    """Adam without eps_root at a gradient of zero: a unit that nothing reads or feeds."""
    objective, start = regression()
    for name in ("0.weight", "0.bias"):
        start[name][2] = 0
    start["2.weight"][:, 2] = 0
    theta = inputs(objective, (0.25, 0.5, 0.25, 0.0))
    adam = replace(STEPS, optimizer=torchopt.adam(1e-2))
    with pytest.raises(AdjointError, match="eps_root=1e-8"):
        outer(solved(adjoint, at(objective, theta), start, adam).params).backward()
    default = replace(STEPS, optimizer=None)
    outer(solved(adjoint, at(objective, theta), start, default).params).backward()
    assert theta["lambdas"].grad.isfinite().all()


@BOTH
def test_a_solver_without_steps_is_refused(adjoint):
    objective, start = regression()
    with pytest.raises(TypeError, match="LBFGS has no optimizer"):
        solved(adjoint, objective, start, LBFGS())


@pytest.mark.parametrize(
    "adjoint", [Replay(), Unroll(), Implicit()], ids=lambda a: type(a).__name__
)
def test_a_spectral_curvature_is_refused_where_it_counts(adjoint):
    objective, start = regression()
    with pytest.raises(ValueError, match="Spectral"):
        solved(adjoint, objective.with_term(CurvatureTerm(Spectral())), start)


@pytest.mark.parametrize("zero", ["task", "noise", "curvature"])
def test_a_weight_of_zero_has_a_derivative(zero):
    """Into the simplex: a one-sided difference of second order, as there is no point beyond."""
    objective, start = regression()
    names = [name for name, _ in objective.lambdas.items()]
    inward = torch.tensor([1.0 if name == zero else -1 / 3 for name in names], dtype=torch.float64)
    edge = torch.tensor([0.0 if name == zero else 1 / 3 for name in names], dtype=torch.float64)

    def loss(adjoint, by=0.0):
        point = (edge + by * inward).requires_grad_()
        theta = inputs(objective) | {"lambdas": point}
        return outer(solved(adjoint, at(objective, theta), start).params), point

    h = 1e-4
    f1, f2 = (loss(Replay(), k * h)[0].item() for k in (1, 2))
    for adjoint in (Replay(), Unroll()):
        value, point = loss(adjoint)
        claimed = float(torch.autograd.grad(value, point)[0] @ inward)
        assert claimed == pytest.approx((4 * f1 - 3 * value.item() - f2) / (2 * h), rel=1e-5)


def test_jacobians_by_torch_func():
    objective, start = regression()
    theta = inputs(objective)

    def w1(point, adjoint):
        moved = at(objective, {n: v.detach() for n, v in theta.items()} | {"lambdas": point})
        return solved(adjoint, moved, start).params["2.bias"]

    point = torch.tensor(LAMBDAS, dtype=torch.float64)
    whole = torch.func.jacrev(w1)(point, Unroll())
    assert whole.shape == (2, 4)
    replayed = torch.func.jacrev(w1)(point, Replay())
    torch.testing.assert_close(replayed, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "fill", ["uniform", pytest.param("uniform-symmetric", marks=pytest.mark.slow)]
)
def test_theta_of_the_fill(fill):
    """U[0, θ] is θ U[0, 1]: the start is a function of θ, and w1 through it."""
    teacher, student = mlp(3, 2, 2, seed=1), mlp(3, 4, 3, seed=2)
    data = randn(30, 3, seed=3), torch.arange(30) % 2
    growth = GrowthMap.between(teacher, student, inputs=data[0])
    unit = dict(grow(teacher, student, fill=fill, theta=1.0, seed=4).named_parameters())
    old = growth.mask()
    theta = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def begin(theta):
        return {n: torch.where(old[n], p.detach(), theta * p.detach()) for n, p in unit.items()}

    def w1(start, adjoint=None):
        options = {"scale": "paper", "solver": STEPS, "adjoint": adjoint}
        return outer(initialize(teacher, student, LAMBDAS, data, start=start, **options).params)

    by_fill = dict(grow(teacher, student, fill=fill, theta=0.1, seed=4).named_parameters())
    torch.testing.assert_close(begin(theta), by_fill)
    h = 1e-5
    numeric = (w1(begin(theta.detach() + h)) - w1(begin(theta.detach() - h))).item() / (2 * h)
    (gradients,) = torch.autograd.grad(w1(begin(theta), Replay()), theta)
    assert float(gradients) == pytest.approx(numeric, rel=1e-6)


def test_corruption_has_a_derivative_in_lambda_alone():
    objective, start = regression()
    theta = inputs(objective)
    moved = changed(at(objective, theta), neighbourhood=Corruption(0.3))
    outer(solved(Replay(), moved, start).params).backward()
    assert theta["lambdas"].grad.any()
    assert theta["delta"].grad is None


@pytest.mark.parametrize(
    "adjoint", [Replay(), Unroll(), Implicit()], ids=lambda a: type(a).__name__
)
def test_an_estimator_that_holds_a_part_fixed_is_refused_by_its_own_word(adjoint):
    class Steered(Frobenius):
        fixed_part = "its direction"

    objective, start = regression()
    objective = changed(objective, curvature=Steered())
    solver = TorchOpt(steps=2, fresh=False)
    with pytest.raises(ValueError, match="curvature=Steered holds its direction fixed"):
        adjoint.solve(solver, objective, start, seed=0, progress=False)
    without = replace(objective, lambdas=Lambdas.of((0.4, 0.4, 0.2, 0)))
    Replay().solve(solver, without, start, seed=0, progress=False)
