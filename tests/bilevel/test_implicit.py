from dataclasses import replace

import pytest
import torch
import torchopt

from phiopt.bilevel import CG, MINRES, AdjointError, Damped, Implicit
from phiopt.objective import CurvatureTerm, Lambdas, Spectral
from phiopt.solve import LBFGS, NewtonCG, TorchOpt
from tests.bilevel.problems import LAMBDAS, at, claimed, inputs, outer, regression, slopes
from tests.cases import randn, ridge

TIGHT = Implicit(CG(1e-10), tol=1e-7)
DESCENT = TorchOpt(
    torchopt.sgd(0.15, momentum=0.8), steps=2000, batch_size=None, fresh=False, tol=1e-10
)


def solved(adjoint, solver, objective, start):
    return adjoint.solve(solver, objective, start, seed=0, progress=False)


SOLVERS = {"TorchOpt": DESCENT, "LBFGS": LBFGS(tol=1e-8, draws=1)}
SYSTEMS = {"CG": CG(1e-11), "MINRES": MINRES(1e-11), "Damped": Damped(1e-12, CG(1e-11))}
QUICK = {("LBFGS", "CG"), ("LBFGS", "MINRES")}


@pytest.mark.parametrize(
    ("solver", "linear_solver"),
    [
        pytest.param(
            SOLVERS[a], SYSTEMS[b], id=f"{a}-{b}", marks=() if (a, b) in QUICK else pytest.mark.slow
        )
        for a in SOLVERS
        for b in SYSTEMS
    ],
)
def test_ridge_against_its_closed_form(linear_solver, solver):
    """The minimiser is the solution of a linear system, which autograd differentiates."""
    case = ridge()
    tensors = case.inputs()
    moved = replace(case, lambdas=Lambdas.of(tensors[0]), delta=tensors[1], u=tensors[2])
    adjoint = Implicit(linear_solver, tol=1e-8)
    outcome = solved(adjoint, solver, moved.objective(), case.start)
    expected = moved.argmin(outcome.saa_samples[0].draws["noise"][0])
    torch.testing.assert_close(outcome.params["weight"][0], expected)
    target = randn(6, seed=11)
    gradients = torch.autograd.grad(((outcome.params["weight"][0] - target) ** 2).sum(), tensors)
    truth = torch.autograd.grad(((expected - target) ** 2).sum(), tensors)
    for ours, theirs in zip(gradients, truth, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_a_net_against_central_differences():
    solver = NewtonCG(tol=1e-9, draws=2)
    objective, start = regression()
    theta = inputs(objective)

    def solve(t):
        return solved(TIGHT, solver, at(objective, t), start).params

    # At 1e-4 what the solver's tolerance leaves open could reach the bound, by the threads' luck.
    assert claimed(solve, theta) == pytest.approx(slopes(solve, theta, 5e-4), rel=1e-4)


@pytest.mark.slow
def test_torchopts_implicit_differentiation_agrees():
    """Its ``custom_root`` takes no dictionaries, so the same stationarity is written for a vector."""
    case = ridge()
    theta = case.inputs()

    def objective_at(lambdas, delta, u):
        return replace(case, lambdas=Lambdas.of(lambdas), delta=delta, u=u).objective()

    objective = objective_at(*theta)
    outcome = solved(Implicit(CG(1e-11), tol=1e-9), DESCENT, objective, case.start)
    sample = outcome.saa_samples[0]

    def stationarity(w, *theta):
        changed = objective_at(*theta)
        return changed.value_and_grad({"weight": w}, sample)[2]["weight"]

    solve = torchopt.linear_solve.solve_normal_cg(maxiter=100, rtol=0, atol=1e-12)
    root = torchopt.diff.implicit.custom_root(stationarity, argnums=(1, 2, 3), solve=solve)(
        lambda w, *theta: outcome.params["weight"].detach()
    )
    theirs = torch.autograd.grad((root(case.start["weight"], *theta) ** 2).sum(), theta)
    ours = torch.autograd.grad((outcome.params["weight"] ** 2).sum(), theta)
    for result, other in zip(ours, theirs, strict=True):
        assert result.any()
        torch.testing.assert_close(result, other, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_it_goes_through_torch_func():
    case = ridge()
    point = torch.tensor([0.4, 0.2, 0.3, 0.1], dtype=torch.float64)

    def loss(lambdas):
        objective = replace(case.objective(), lambdas=Lambdas.of(lambdas))
        return outer(solved(TIGHT, DESCENT, objective, case.start).params)

    given = point.clone().requires_grad_()
    expected = torch.autograd.grad(loss(given), given)[0]
    torch.testing.assert_close(torch.func.grad(loss)(point), expected)


@pytest.mark.slow
def test_without_weight_on_the_proximity_the_teacher_has_no_influence():
    """λ2 tends to 0, and with it dφ/du."""
    case = ridge()
    sizes = []
    for weight in (1e-2, 1e-4):
        u = case.u.clone().requires_grad_()
        lambdas = Lambdas(0.5, weight, 0.5 - weight, 0)
        objective = replace(case, lambdas=lambdas, u=u).objective()
        actual = outer(solved(TIGHT, DESCENT, objective, case.start).params)
        sizes.append(float(torch.autograd.grad(actual, u)[0].norm()))
    assert sizes[1] == pytest.approx(sizes[0] / 100, rel=0.1)


@pytest.mark.slow
def test_a_cotangent_of_any_layout_will_do():
    """That of a sum over rows is expanded, that of a transpose turned."""
    case = ridge()
    point = torch.tensor([0.4, 0.2, 0.3, 0.1], dtype=torch.float64, requires_grad=True)
    objective = replace(case.objective(), lambdas=Lambdas.of(point))
    weight = solved(TIGHT, DESCENT, objective, case.start).params["weight"]
    scale = randn(weight.shape[1], seed=0)
    plain, summed, turned = (
        torch.autograd.grad(value, point, retain_graph=True)[0]
        for value in (
            (weight * scale).sum(),
            (weight.sum(0) * scale).sum(),
            (weight.T.reshape(-1) * scale.repeat_interleave(len(weight))).sum(),
        )
    )
    assert plain.any()
    torch.testing.assert_close(summed, plain)
    torch.testing.assert_close(turned, plain)


@pytest.mark.slow
def test_the_start_has_no_influence():
    case = ridge()
    start = {"weight": case.start["weight"].requires_grad_()}
    point = torch.tensor([0.4, 0.2, 0.3, 0.1], dtype=torch.float64, requires_grad=True)
    objective = replace(case.objective(), lambdas=Lambdas.of(point))
    actual = outer(solved(TIGHT, DESCENT, objective, start).params)
    gradient = torch.autograd.grad(actual, [start["weight"], point])
    assert not gradient[0].any()
    assert gradient[1].any()


@pytest.mark.slow
def test_for_the_start_alone_no_system_is_solved():
    """One that cannot be solved would refuse a derivative that is 0 for certain."""
    case = ridge()
    start = {"weight": case.start["weight"].requires_grad_()}
    adjoint = Implicit(lambda operator, b: pytest.fail("was called"), tol=1e-7)
    actual = outer(solved(adjoint, DESCENT, case.objective(), start).params)
    assert not torch.autograd.grad(actual, start["weight"])[0].any()


class TestRefusals:
    def test_a_point_that_is_not_stationary(self):
        objective, start = regression()
        objective = at(objective, inputs(objective))
        with pytest.raises(AdjointError, match=r"above Implicit's tol=1e-07.*Minimise further"):
            solved(TIGHT, replace(DESCENT, tol=None, steps=3), objective, start)

    def test_samples_that_are_not_frozen(self):
        objective, start = regression()
        with pytest.raises(ValueError, match="give it fresh=False"):
            solved(TIGHT, TorchOpt(), objective, start)

    @pytest.mark.slow
    def test_a_linear_system_that_is_not_solved(self):
        case = ridge()
        point = torch.tensor([0.4, 0.2, 0.3, 0.1], dtype=torch.float64, requires_grad=True)
        objective = replace(case.objective(), lambdas=Lambdas.of(point))
        solution = solved(Implicit(CG(1e-10, 1)), DESCENT, objective, case.start).params
        with pytest.raises(AdjointError, match=r"not solved after 1 iter.*ITERATION_LIMIT"):
            outer(solution).backward()

    @pytest.mark.slow
    def test_a_linear_solver_that_gives_no_verdict(self):
        case = ridge()
        point = torch.tensor([0.4, 0.2, 0.3, 0.1], dtype=torch.float64, requires_grad=True)
        objective = replace(case.objective(), lambdas=Lambdas.of(point))
        solution = solved(Implicit(lambda operator, b: b), DESCENT, objective, case.start).params
        with pytest.raises(TypeError, match=r"^linear_solver: returned Tensor, must .*LinearSol"):
            outer(solution).backward()

    @pytest.mark.slow
    def test_a_minimiser_that_jumps(self):
        """Coordinates that no term sees, until another weight is positive."""
        case = ridge()
        point = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
        objective = replace(case.objective(), lambdas=Lambdas.of(point))
        solution = solved(TIGHT, DESCENT, objective, case.start).params
        with pytest.raises(
            AdjointError, match="differs from a re-solve nearby, relatively, in lambdas"
        ):
            outer(solution).backward()

    def test_a_spectral_curvature(self):
        objective, start = regression()
        objective = objective.with_term(CurvatureTerm(Spectral()))
        with pytest.raises(ValueError, match="curvature=Spectral holds its eigenvector fixed"):
            solved(TIGHT, DESCENT, objective, start)

    def test_data_that_have_changed_since(self):
        """A frozen sample of all of D1 is the caller's own tensor."""
        objective, start = regression()
        point = torch.tensor(LAMBDAS, dtype=torch.float64, requires_grad=True)
        objective = replace(objective, lambdas=Lambdas.of(point))
        solution = solved(TIGHT, LBFGS(steps=2000, tol=1e-8, draws=1), objective, start).params
        objective.data.example[0].mul_(2)
        with pytest.raises(AdjointError, match="changed in place since the solve"):
            outer(solution).backward()

    @pytest.mark.parametrize("tol", [0.0, 1.0, float("nan")])
    def test_bad_arguments(self, tol):
        with pytest.raises(ValueError, match="tol: got"):
            Implicit(tol=tol)
        with pytest.raises(TypeError, match="linear_solver: got 3"):
            Implicit(3)
        with pytest.raises(TypeError, match="linear_solver: got the class CG"):
            Implicit(CG)

    def test_bad_arguments_of_the_check(self):
        with pytest.raises(TypeError, match="check: got 'no', must be True or False"):
            Implicit(check="no")
        with pytest.raises(ValueError, match="max_error: got"):
            Implicit(max_error=0.0)
        with pytest.raises(ValueError, match="damping: got"):
            Implicit(damping=1.0)
        with pytest.raises(TypeError, match="report: got 3"):
            Implicit(report=3)
