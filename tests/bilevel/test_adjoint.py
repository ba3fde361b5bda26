from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torchopt
from torch import nn

from phiopt import Gaussian, GrowthMap, NewtonCG, grow, initialize
from phiopt.bilevel import CG, AdjointError, Implicit, Replay, Unroll
from phiopt.bilevel.adjoint import differentiable_inputs, without_grad
from phiopt.lift import Compose, Pad
from phiopt.objective import Corruption, CurvatureTerm, Frobenius, Lambdas, Spectral, Stream
from phiopt.solve import LBFGS, TorchOpt
from tests.bilevel.problems import LAMBDAS, at, inputs, outer, regression
from tests.cases import changed, generator, mlp, randn

STEPS = TorchOpt(torchopt.sgd(0.02), steps=4, batch_size=16)
BOTH = pytest.mark.parametrize("adjoint", [Replay(), Unroll()], ids=str)


def solved(adjoint, objective, start, solver=STEPS):
    return adjoint.solve(solver, objective, start, seed=0, progress=False)


def test_the_inputs_are_the_tensors_that_require_grad():
    objective, start = regression()
    assert differentiable_inputs(objective, start) == {}
    theta = inputs(objective)
    found = differentiable_inputs(at(objective, theta), start)
    names = [f"lambdas.{n}" for n, _ in objective.lambdas.items()] + ["neighbourhood.delta"]
    names += [f"teacher.{n}" for n in objective.term("proximity").teacher]
    assert sorted(found) == sorted(names)
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
    found, plain = solved(adjoint, objective, start), STEPS.solve(objective, start)
    assert not any(p.requires_grad for p in found.params.values())
    assert all(torch.equal(found.params[n], p) for n, p in plain.params.items())


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
            found = initialize(
                nn.Linear(4, 2).requires_grad_(False).float(),
                nn.Linear(4, 2).float(),
                Lambdas(*point, 0.0),
                (x, y),
                loss=lambda outputs, targets: ((outputs - targets) ** 2).mean(1),
                solver=solver,
                adjoint=adjoint,
            )
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=back):
            return found, adjoint and torch.autograd.grad(outer(found.params), point)[0]

    torch.manual_seed(0)
    plain, expected = slope(False, False)
    for solve, back in ((True, False), (True, True)):
        torch.manual_seed(0)
        found, there = slope(solve, back)
        assert found.objective == plain.objective
        assert all(torch.equal(found.params[n], p) for n, p in plain.params.items())
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
    (found,) = torch.autograd.grad(w1(begin(theta), Replay()), theta)
    assert float(found) == pytest.approx(numeric, rel=1e-6)


def test_corruption_has_a_derivative_in_lambda_alone():
    objective, start = regression()
    theta = inputs(objective)
    moved = changed(at(objective, theta), neighbourhood=Corruption(0.3))
    outer(solved(Replay(), moved, start).params).backward()
    assert theta["lambdas"].grad.any()
    assert theta["delta"].grad is None


class Weights(nn.Module):
    """ψ(x)_i = a_i x_i, with a feature added that is not the teacher's: a_0 x_0 x_1."""

    def __init__(self, *values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values, dtype=torch.float64))
        self.norm = nn.BatchNorm1d(len(values), affine=False, dtype=torch.float64)

    def forward(self, x):
        x = self.norm(x * self.values)
        return torch.cat([x, x[:, :1] * x[:, 1:2]], 1)

    def shape(self, shape):
        return (shape[0] + 1,)

    def index_maps(self, shape):
        return (torch.arange(shape[0]).numpy(),)


def channels():
    """ψ for images: a learned 1x1 convolution of one channel to three."""
    lift = nn.Conv2d(1, 3, 1, dtype=torch.float64)
    with torch.no_grad():
        lift.weight.copy_(randn(3, 1, 1, 1, seed=5))
        lift.bias.copy_(randn(3, seed=6))
    return lift


def conv_net(channels, width, seed):
    net = nn.Sequential(
        nn.Conv2d(channels, width, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4 * width, width)
    ).double()
    source = generator(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=source, dtype=p.dtype) / 2)
    return net


def squared(outputs, targets):
    return ((outputs[:, :2] - targets) ** 2).mean(1)


class TestLift:
    """w1 as a function of ψ's parameters."""

    FEATURES = (mlp(3, 2, 2, seed=1), mlp(4, 3, 2, seed=2), randn(30, 3, seed=3))
    IMAGES = (conv_net(1, 2, seed=1), conv_net(3, 3, seed=2), randn(12, 1, 3, 3, seed=3))

    def error(self, models, lift, solver, *adjoints, lambdas=LAMBDAS, step=1e-5):
        """The largest of the adjoints, of the derivative along a random direction, relative to central differences."""
        teacher, student, x = models
        y = randn(len(x), 2, seed=4)

        tangents = [randn(p.numel(), seed=i).view_as(p) for i, p in enumerate(lift.parameters())]

        def loss(by, adjoint=None):
            psi = deepcopy(lift)
            with torch.no_grad():
                for p, tangent in zip(psi.parameters(), tangents, strict=True):
                    p.add_(tangent, alpha=by)
            found = initialize(
                teacher,
                student,
                lambdas,
                (x, y),
                lift=psi,
                loss=squared,
                neighbourhood=Gaussian(0.3),
                scale="paper",
                solver=solver,
                adjoint=adjoint,
            )
            return outer(found.params), psi

        def claimed(adjoint):
            value, psi = loss(0.0, adjoint)
            gradient = torch.autograd.grad(value, list(psi.parameters()))
            return sum((g * t).sum() for g, t in zip(gradient, tangents, strict=True)).item()

        numeric = (loss(step)[0] - loss(-step)[0]).item() / (2 * step)
        assert abs(numeric) > 1e-4
        return max(abs(claimed(adjoint) - numeric) for adjoint in adjoints) / abs(numeric)

    @pytest.mark.parametrize("kind", ["features", "images"])
    @pytest.mark.parametrize(
        "term", [*(pytest.param(i, marks=pytest.mark.slow) for i in range(3)), 3]
    )
    def test_steps_against_central_differences(self, kind, term):
        """Through each of the terms that see inputs, and through all."""
        solver = TorchOpt(torchopt.sgd(0.05, momentum=0.5), steps=6, batch_size=10, check_every=6)
        models, lift = (
            (self.FEATURES, Weights(0.7, -1.2, 0.9))
            if kind == "features"
            else (self.IMAGES, channels())
        )
        lambdas = ((0.75, 0.25, 0, 0), (0, 0.25, 0.75, 0), (0, 0.25, 0, 0.75), LAMBDAS)[term]
        assert self.error(models, lift, solver, Replay(), Unroll(), lambdas=lambdas) < 1e-5

    @pytest.mark.slow
    def test_the_minimiser_against_central_differences(self):
        solver, adjoint = NewtonCG(tol=1e-7, draws=1), Implicit(CG(1e-10), tol=1e-5)
        models = (mlp(3, 2, 2, seed=1), mlp(4, 2, 2, seed=2), randn(16, 3, seed=3))
        lift = Weights(0.7, -1.2, 0.9)
        assert self.error(models, lift, solver, adjoint, step=1e-4) < 1e-4

    def test_replay_is_unroll_and_the_lift_is_left_as_it_was(self):
        teacher, student, x = self.FEATURES
        lift = Weights(0.7, -1.2, 0.9)
        before = {name: value.clone() for name, value in lift.state_dict().items()}
        found = []
        for adjoint in (Replay(), Unroll()):
            solution = initialize(
                teacher,
                student,
                LAMBDAS,
                (x, randn(30, 2, seed=4)),
                lift=lift,
                loss=squared,
                solver=STEPS,
                adjoint=adjoint,
            )
            found.append(torch.autograd.grad(outer(solution.params), lift.values)[0])
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
        assert lift.training
        assert all(torch.equal(value, before[name]) for name, value in lift.state_dict().items())

    def test_a_part_of_a_composition(self):
        teacher, _, x = self.FEATURES
        lift = Compose(Weights(0.7, -1.2, 0.9), Pad((6,)))
        models = (teacher, mlp(6, 3, 2, seed=2), x)
        solver = replace(STEPS, check_every=4)
        assert self.error(models, lift, solver, Replay()) < 1e-5

    def test_without_an_adjoint_there_is_no_derivative(self):
        teacher, student, x = self.FEATURES
        solution = initialize(
            teacher,
            student,
            LAMBDAS,
            (x, randn(30, 2, seed=4)),
            lift=Weights(1.0, 1.0, 1.0),
            loss=squared,
            solver=STEPS,
        )
        assert not any(p.requires_grad for p in solution.params.values())


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
