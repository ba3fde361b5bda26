from dataclasses import replace

import pytest
import torch
import torchopt

from phiopt.bilevel import Unroll
from phiopt.objective import Lambdas
from phiopt.solve import TorchOpt
from tests.bilevel.problems import at, claimed, inputs, outer, regression, slopes
from tests.cases import changed, randn, ridge

SOLVER = TorchOpt(torchopt.adam(1e-2, eps_root=1e-16), steps=6, batch_size=16, check_every=6)


def gradient(adjoint, objective, start, solver=SOLVER):
    theta = inputs(objective)
    outcome = adjoint.solve(solver, at(objective, theta), start, seed=0, progress=False)
    return torch.autograd.grad(outer(outcome.params), list(theta.values()))


def test_all_the_last_steps_are_all_steps():
    objective, start = regression()
    whole = gradient(Unroll(), objective, start)
    for last in (6, 100):
        assert all(map(torch.equal, whole, gradient(Unroll(last=last), objective, start)))
    truncated = gradient(Unroll(last=5), objective, start)
    assert not torch.allclose(whole[0], truncated[0], rtol=1e-3)


@pytest.mark.parametrize("last", [1, 2, 5])
def test_truncation_against_its_closed_form(last):
    """The proximity alone: the last k of the steps give 1 − (1 − 2η)^k of the teacher's weight."""
    case = ridge()
    u = case.u.clone().requires_grad_()
    objective = replace(case.objective(), data=None, lambdas=Lambdas(0, 1, 0, 0))
    objective = changed(objective, teacher={"weight": u[None]})
    solver = TorchOpt(torchopt.sgd(0.1), steps=5, fresh=False)
    outcome = Unroll(last).solve(solver, objective, case.start, seed=0, progress=False)
    weights = randn(4, seed=3)
    gradients = torch.autograd.grad((outcome.params["weight"][0, :4] * weights).sum(), u)[0]
    torch.testing.assert_close(gradients, weights * (1 - 0.8**last))


def test_second_derivatives_against_differences_of_first_ones():
    objective, start = regression()
    tangent = torch.tensor([0.1, -0.2, 0.3, -0.2], dtype=torch.float64)

    def slope(by, create_graph=False):
        theta = inputs(objective)
        theta["lambdas"] = (theta["lambdas"] + by * tangent).detach().requires_grad_()
        outcome = Unroll().solve(SOLVER, at(objective, theta), start, seed=0, progress=False)
        loss = outer(outcome.params)
        gradients = torch.autograd.grad(loss, theta["lambdas"], create_graph=create_graph)[0]
        return gradients @ tangent, theta["lambdas"]

    first, point = slope(0.0, create_graph=True)
    second = torch.autograd.grad(first, point)[0] @ tangent
    h = 1e-5
    assert float(second) == pytest.approx(float(slope(h)[0] - slope(-h)[0]) / (2 * h), rel=1e-6)


def test_steps_that_could_not_be_taken_again():
    """They are recorded as the solve takes them."""
    objective, start = regression()
    theta = inputs(objective)

    def solve(t):
        sgd = torchopt.sgd(0.02, momentum=0.9, dampening=0.8)  # remembers its first call
        solver = replace(SOLVER, optimizer=sgd)
        return Unroll().solve(solver, at(objective, t), start, seed=0, progress=False).params

    assert claimed(solve, theta) == pytest.approx(slopes(solve, theta, 1e-5), rel=1e-5)


def test_the_solve_is_the_plain_one():
    objective, start = regression()
    plain = SOLVER.solve(objective, start)
    outcome = Unroll().solve(
        SOLVER, at(objective, inputs(objective)), start, seed=0, progress=False
    )
    assert outcome.stats.steps == plain.stats.steps
    assert not any(isinstance(v, torch.Tensor) for row in outcome.history for v in row.values())
    for name, value in plain.params.items():
        torch.testing.assert_close(outcome.params[name].detach(), value, rtol=1e-12, atol=1e-14)


def test_the_result_does_not_share_the_start():
    objective, start = regression()
    hopeless = replace(SOLVER, optimizer=torchopt.sgd(1e3))
    outcome = Unroll().solve(hopeless, objective, start, seed=0, progress=False)
    for name, value in outcome.params.items():
        assert torch.equal(value, start[name])
        assert value.data_ptr() != start[name].data_ptr()


def test_bad_arguments():
    with pytest.raises(ValueError, match="last: got 0"):
        Unroll(last=0)
    with pytest.raises(TypeError, match=r"last: got 1\.5"):
        Unroll(last=1.5)
