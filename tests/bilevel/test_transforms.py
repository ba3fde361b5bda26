"""Derivatives through `initialize`, by `torch.autograd` and `torch.func`, of either order and mode."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call

from phiopt import GrowthMap, Uniform, initialize
from phiopt.bilevel import CG, AdjointError, Implicit, Replay, Unroll
from phiopt.solve import LBFGS, NewtonCG, TorchOpt
from tests.bilevel.problems import outer
from tests.cases import mlp, randn

TEACHER, STUDENT = mlp(3, 2, 2, seed=1), mlp(3, 3, 2, seed=2)
DATA = randn(30, 3, seed=3), randn(30, 2, seed=4)
POINT = torch.tensor([0.4, 0.2, 0.3, 0.1], dtype=torch.float64)
TANGENT = torch.tensor([0.1, -0.2, 0.3, -0.2], dtype=torch.float64)
STEPS = TorchOpt(steps=4, batch_size=16, check_every=4)
IMPLICIT = Implicit(CG(1e-8), tol=1e-3)
EVERY = pytest.mark.parametrize(
    ("adjoint", "solver"),
    [
        pytest.param(Replay(), STEPS, id="Replay"),
        pytest.param(Unroll(), STEPS, id="Unroll", marks=pytest.mark.slow),
        pytest.param(Unroll(last=3), STEPS, id="last", marks=pytest.mark.slow),
        pytest.param(
            IMPLICIT,
            LBFGS(steps=2000, tol=1e-5, draws=1),
            id="LBFGS",
            marks=pytest.mark.slow,
        ),
        pytest.param(IMPLICIT, NewtonCG(tol=1e-5, draws=1), id="NewtonCG", marks=pytest.mark.slow),
    ],
)
ONCE = pytest.mark.parametrize(
    ("adjoint", "solver"),
    [
        pytest.param(Replay(), STEPS, id="Replay"),
        pytest.param(IMPLICIT, NewtonCG(tol=1e-5, draws=1), id="Implicit", marks=pytest.mark.slow),
    ],
)
TWICE = pytest.mark.parametrize("adjoint", [Unroll(), Unroll(last=5)], ids=str)


def squared(outputs, targets):
    return ((outputs - targets) ** 2).mean(1)


def w1(lambdas, adjoint, solver=STEPS, data=DATA, **options):
    given = {"loss": squared, "solver": solver, "adjoint": adjoint} | options
    return initialize(TEACHER, STUDENT, lambdas, data, **given).params


def loss(lambdas, *how, **options):
    return outer(w1(lambdas, *how, **options))


def by_autograd(function, at):
    given = at.clone().requires_grad_()
    return torch.autograd.grad(function(given), given)[0]


@EVERY
def test_reverse_mode_of_torch_func_is_that_of_autograd(adjoint, solver):
    def e(lambdas):
        return loss(lambdas, adjoint, solver)

    expected = by_autograd(e, POINT)
    assert expected.any()
    torch.testing.assert_close(torch.func.grad(e)(POINT).detach(), expected)
    value, pull = torch.func.vjp(e, POINT)
    torch.testing.assert_close(value.detach(), e(POINT.clone().requires_grad_()).detach())
    torch.testing.assert_close(pull(torch.ones_like(value))[0].detach(), expected)

    def several(lambdas):
        return w1(lambdas, adjoint, solver)["2.bias"]

    rows = [by_autograd(lambda at, i=i: several(at)[i], POINT) for i in range(2)]
    actual = torch.func.jacrev(several)(POINT)
    torch.testing.assert_close(actual.detach(), torch.stack(rows))


@EVERY
def test_and_in_delta(adjoint, solver):
    def e(delta):
        return loss(POINT, adjoint, solver, neighbourhood=Uniform(delta))

    delta = torch.tensor(0.4, dtype=torch.float64)
    gradients = torch.func.grad(e)(delta).detach()
    torch.testing.assert_close(gradients, by_autograd(e, delta))
    assert gradients.abs() > 1e-6


@pytest.mark.parametrize("adjoint", [Replay(), Unroll()], ids=str)
def test_and_in_u_through_the_start_and_on_data_made_within(adjoint):
    growth = GrowthMap.between(TEACHER, STUDENT, inputs=DATA[0])
    own = {name: p.detach() for name, p in STUDENT.named_parameters()}
    rest = {name: p.detach() for name, p in TEACHER.named_parameters()}

    def e(weight):
        data = DATA[0] + torch.zeros(3), DATA[1] * torch.ones(2)
        start = growth.embed(rest | {"0.weight": weight}, into=own)
        return loss(POINT, adjoint, start=start, data=data)

    gradients = torch.func.grad(e)(rest["0.weight"]).detach()
    torch.testing.assert_close(gradients, by_autograd(e, rest["0.weight"]))


@EVERY
def test_vmap_over_points_is_refused(adjoint, solver):
    points = torch.stack([POINT, POINT])
    for function in (loss, torch.func.grad(loss)):
        with pytest.raises(
            ValueError, match=r"^lambdas.task: is batched by torch.vmap.*solve_many"
        ):
            torch.func.vmap(lambda at, f=function: f(at, adjoint, solver))(points)


@pytest.mark.slow
@ONCE
def test_a_second_derivative_is_refused(adjoint, solver):
    """Not 0, for which autograd takes what has no graph."""

    def e(lambdas):
        return loss(lambdas, adjoint, solver) + (lambdas**2).sum()

    def penalty():
        at = POINT.clone().requires_grad_()
        (first,) = torch.autograd.grad(e(at), at, create_graph=True)
        return torch.autograd.grad(first.sum(), at)

    for second in (
        penalty,
        lambda: torch.autograd.functional.hessian(e, POINT),
        lambda: torch.func.grad(lambda at: torch.func.grad(e)(at).sum())(POINT),
        lambda: torch.func.jacrev(torch.func.grad(e))(POINT),
        lambda: torch.func.jvp(torch.func.grad(e), (POINT,), (TANGENT,)),
    ):
        with pytest.raises(AdjointError, match=r"use (reverse mode, or )?Unroll\(\)"):
            second()


@ONCE
def test_forward_mode_is_refused(adjoint, solver):
    def e(lambdas):
        return loss(lambdas, adjoint, solver)

    def dual():
        with forward_ad.dual_level():
            e(forward_ad.make_dual(POINT, TANGENT))

    for forward in (
        dual,
        lambda: torch.func.jvp(e, (POINT,), (TANGENT,)),
        lambda: torch.func.jacfwd(e)(POINT),
        lambda: torch.func.hessian(e)(POINT),
    ):
        with pytest.raises(AdjointError, match=r"forward mode .*Unroll"):
            forward()


@pytest.mark.slow
@TWICE
def test_unroll_has_forward_mode_and_second_derivatives(adjoint):
    def e(lambdas):
        return loss(lambdas, adjoint)

    def slope(by):
        return by_autograd(e, POINT + by * TANGENT)

    first, second = slope(0.0), (slope(1e-5) - slope(-1e-5)) / 2e-5
    torch.testing.assert_close(torch.func.jvp(e, (POINT,), (TANGENT,))[1].detach(), first @ TANGENT)
    with forward_ad.dual_level():
        actual = forward_ad.unpack_dual(e(forward_ad.make_dual(POINT, TANGENT))).tangent
    torch.testing.assert_close(actual.detach(), first @ TANGENT)
    for hessian in (
        torch.autograd.functional.hessian(e, POINT),
        torch.func.hessian(e)(POINT).detach(),
        torch.func.jacrev(torch.func.grad(e))(POINT).detach(),
    ):
        torch.testing.assert_close(hessian @ TANGENT, second, rtol=1e-6, atol=1e-9)


def test_without_an_adjoint_a_derivative_is_refused():
    """torch.func would make it 0."""
    for derivative in (
        lambda: torch.func.grad(loss)(POINT, None),
        lambda: torch.func.jvp(lambda at: loss(at, None), (POINT,), (TANGENT,)),
    ):
        with pytest.raises(ValueError, match=r"^adjoint: None, but lambdas.task is being diff"):
            derivative()


def test_modules_within_a_transform_are_refused():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher = TEACHER

        def forward(self):
            return loss(POINT, Replay())

    u = {f"teacher.{name}": p.detach() for name, p in TEACHER.named_parameters()}
    with pytest.raises(ValueError, match=r"^teacher: 0.weight is a tensor of torch.func"):
        torch.func.grad(lambda values: functional_call(Outer(), values, ()))(u)
