"""Many solves at once against each of them alone."""

from dataclasses import replace

import pytest
import torch
import torchopt
from torch import nn

from phiopt.data import Data
from phiopt.objective import (
    Frobenius,
    Gaussian,
    Lambdas,
    Uniform,
    paper_objective,
    pure_model,
    student_loss,
)
from phiopt.solve import LBFGS, Status, TorchOpt, solve_many
from tests.cases import Stackable, changed, classification, flatten, mlp, randn

POINTS = torch.tensor(
    [
        [0.25, 0.25, 0.25, 0.25],
        [0.0, 0.1, 0.9, 0.0],
        [0.5, 0.3, 0.0, 0.2],
        [0.0, 0.5, 0.0, 0.5],
        [0.9, 0.1, 0.0, 0.0],
    ],
    dtype=torch.float64,
)
SOLVER = TorchOpt(torchopt.adam(2e-2), steps=12, batch_size=16, check_every=5)


def posed(seed=0, **options):
    objective, start = classification(count=40, **options)
    start = {n: p + 0.1 * randn(*p.shape, seed=seed) for n, p in start.items()}
    divisors = {"proximity": 2.0 + seed, "curvature": 0.7}
    return Stackable(replace(objective, divisors=divisors), start, seed)


def alone(solver, problem, point):
    objective = replace(problem.objective, lambdas=Lambdas.of(point.tolist()))
    return solver.solve(objective, problem.start, seed=problem.seed)


def assert_same(ours, theirs):
    assert ours.status is theirs.status
    torch.testing.assert_close(flatten(ours.params), flatten(theirs.params), rtol=1e-9, atol=1e-11)
    for name in ("objective", "start_objective", "terms", "start_terms"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-9, nan_ok=True)
    assert len(ours.history) == len(theirs.history)
    for result, other in zip(ours.history, theirs.history, strict=True):
        assert {n: result[n] for n in other} == pytest.approx(
            other, rel=1e-8, abs=1e-11, nan_ok=True
        )
    for name in ("steps", "gradient", "rollbacks"):
        assert getattr(ours.stats, name) == getattr(theirs.stats, name)


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(None, id="default"),
        pytest.param(
            torchopt.sgd(0.02, momentum=0.9, nesterov=True), id="momentum", marks=pytest.mark.slow
        ),
        pytest.param(torchopt.sgd(0.05), id="sgd", marks=pytest.mark.slow),
        pytest.param(torchopt.rmsprop(1e-2), id="rmsprop", marks=pytest.mark.slow),
        pytest.param(torchopt.adamw(1e-2), id="adamw", marks=pytest.mark.slow),
        pytest.param(
            torchopt.adam(torchopt.schedule.polynomial_schedule(1e-2, 1e-3, 1, 20)),
            id="schedule",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_each_point_is_as_if_solved_alone(optimizer):
    solver, problem = replace(SOLVER, optimizer=optimizer), posed()
    (actual,) = solve_many(solver, [problem], POINTS)
    for point, ours in zip(POINTS, actual, strict=True):
        assert_same(ours, alone(solver, problem, point))


@pytest.mark.slow
def test_several_problems_keep_their_own_draws_starts_and_divisors():
    problems = [posed(seed) for seed in range(3)]
    actual = solve_many(SOLVER, problems, POINTS)
    assert [len(result) for result in actual] == [5, 5, 5]
    for problem, result in zip(problems, actual, strict=True):
        for point, ours in zip(POINTS, result, strict=True):
            assert_same(ours, alone(SOLVER, problem, point))
    assert not torch.equal(flatten(actual[0][0].params), flatten(actual[1][0].params))


@pytest.mark.parametrize(
    "curvature",
    [
        pytest.param(Frobenius(probes=3), id="probes", marks=pytest.mark.slow),
        pytest.param(Frobenius(batch=0.5), id="two batches", marks=pytest.mark.slow),
        pytest.param(Frobenius(every=2), id="now and then"),
    ],
)
def test_every_estimator_of_the_curvature(curvature):
    problem = posed(curvature=curvature, neighbourhood=Gaussian(0.2))
    solver = replace(SOLVER, batch_size=40)  # enough for two parts
    points = POINTS[[0, 2]]
    (actual,) = solve_many(solver, [problem], points)
    for point, ours in zip(points, actual, strict=True):
        assert_same(ours, alone(solver, problem, point))


def test_a_start_at_the_minimum_is_accepted_there():
    objective, start = classification()
    teacher = objective.term("proximity").extract(start)
    problem = Stackable(changed(objective, teacher=teacher), start)
    points = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]], dtype=torch.float64)
    (actual,) = solve_many(SOLVER, [problem], points)
    assert actual[0].status is Status.SOLVED
    assert actual[0].stats.steps == 1
    assert actual[1].status is Status.BUDGET_SPENT
    for point, ours in zip(points, actual, strict=True):
        assert_same(ours, alone(SOLVER, problem, point))


def far_is_not_a_number(outputs, targets):
    """A loss that drives the outputs up, and is NaN once they are large."""
    return torch.where(outputs.amax(1) > 6, torch.nan, -outputs.sum(1))


def test_what_fails_at_one_point_harms_no_other():
    problem = posed(lambdas=(0.3, 0.2, 0.3, 0.2))
    problem = replace(problem, objective=replace(problem.objective, loss=far_is_not_a_number))
    solver = TorchOpt(torchopt.sgd(0.2), steps=40, batch_size=16, check_every=4)
    points = torch.tensor(
        [[0.98, 0.02, 0.0, 0.0], [0.002, 0.998, 0.0, 0.0], [0.4, 0.6, 0.0, 0.0]],
        dtype=torch.float64,
    )
    (actual,) = solve_many(solver, [problem], points)
    assert actual[0].status is Status.NON_FINITE
    assert actual[0].stats.rollbacks == 3
    assert actual[1].status is Status.BUDGET_SPENT
    for point, ours in zip(points, actual, strict=True):
        assert flatten(ours.params).isfinite().all()
        assert_same(ours, alone(solver, problem, point))


def test_too_few_steps_to_give_up_do_not_hide_a_gradient_that_is_never_finite():
    problem = posed(lambdas=(0.3, 0.2, 0.3, 0.2))
    bad = replace(problem.objective, loss=lambda o, t: o.square().sum(1).mul(0).sqrt())
    solver = TorchOpt(torchopt.sgd(0.2), steps=2, batch_size=16)
    (actual,) = solve_many(solver, [replace(problem, objective=bad)], POINTS[:2])
    assert [ours.status for ours in actual] == [Status.NON_FINITE] * 2


def test_a_start_that_is_not_finite_is_reported_for_its_problem_alone():
    good, bad = posed(0), posed(1)
    bad.start["0.weight"][0, 0] = torch.nan
    actual = solve_many(SOLVER, [bad, good], POINTS[:2])
    assert [ours.status for ours in actual[0]] == [Status.NON_FINITE] * 2
    for point, ours in zip(POINTS, actual[1], strict=False):
        assert_same(ours, alone(SOLVER, good, point))


@pytest.mark.slow
def test_buffers_and_fixed_parameters_are_each_problems_own():
    def build(seed):
        net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
        net[1].running_mean.copy_(randn(5, seed=seed))
        objective, _ = classification()
        kept = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        start = {n: randn(*p.shape, seed=7) for n, p in net.named_parameters() if "3" not in n}
        constants = {n: v.detach().clone() for n, v in kept.items() if n not in start}
        teacher = {n: v + 1 for n, v in start.items()}
        model = pure_model(net, lambda x: x)
        fields = {"model": model, "teacher": teacher, "extract": lambda w: w}
        return Stackable(changed(objective, **fields), start, 0, constants)

    torch.manual_seed(0)
    problems = [build(seed) for seed in range(2)]
    actual = solve_many(SOLVER, problems, POINTS[:2])
    for problem, result in zip(problems, actual, strict=True):
        for point, ours in zip(POINTS, result, strict=False):
            assert_same(ours, alone(SOLVER, problem, point))


def test_without_data_the_proximity_is_minimised():
    objective, start = classification()
    plain = paper_objective(
        objective.model,
        objective.term("proximity").teacher,
        objective.term("proximity").extract,
        objective.loss,
        Lambdas(0, 1, 0, 0),
    )
    points = torch.tensor([[0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    ((actual,),) = solve_many(SOLVER, [Stackable(plain, start)], points)
    assert actual.objective < actual.start_objective
    assert set(actual.terms) == {"proximity"}


CLIPPED = torchopt.chain(torchopt.clip.clip_grad_norm(0.1), torchopt.sgd(0.1))
BAD = {
    "optimizer": ({"solver": TorchOpt(CLIPPED)}, TypeError, "solver: its optimizer cannot"),
    "solver": ({"solver": LBFGS()}, TypeError, "solver: got LBFGS"),
    "tol": ({"solver": replace(SOLVER, tol=0.1)}, ValueError, "no tol"),
    "frozen": ({"solver": replace(SOLVER, fresh=False)}, ValueError, "fresh draws"),
    "none": ({"problems": []}, ValueError, "problems: got none"),
    "shape": ({"lambdas": torch.ones(4) / 4}, ValueError, r"lambdas: got shape \(4,\)"),
    "off the simplex": ({"lambdas": torch.ones(1, 4)}, ValueError, "must sum to 1"),
    "no proximity": ({"lambdas": torch.tensor([[1.0, 0, 0, 0]])}, ValueError, "proximity: got 0"),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_named(options, error, message):
    given = {"solver": SOLVER, "problems": [posed()], "lambdas": POINTS} | options
    with pytest.raises(error, match=message):
        solve_many(**given)


def doubled(outputs, targets):
    return 2 * outputs.square().sum(1)


DIFFERENT = {
    "delta": ({"neighbourhood": Uniform(0.2, samples=2)}, r"its neighbourhood \(Uniform"),
    "tensor": ({"neighbourhood": Uniform(torch.tensor(0.2).double(), samples=2)}, "neighbourhood"),
    "curvature": ({"curvature": Frobenius(probes=2, every=2)}, "its curvature"),
    "loss": ({"loss": doubled}, "its loss"),
    "classes": ({"loss": student_loss(None, torch.tensor([0, 2]), 1, False)}, "the classes"),
    "extract": ({"extract": lambda w: {k: 2 * v[:3] for k, v in w.items()}}, "its extract"),
    "model": ({"model": pure_model(mlp(4, 5, 3, seed=2), lambda x: 2 * x)}, "its model"),
    "micro_batch": ({"micro_batch": 4}, "its micro_batch"),
}


@pytest.mark.parametrize(("changes", "message"), DIFFERENT.values(), ids=DIFFERENT)
def test_problems_that_differ_in_what_is_not_stacked_are_refused(changes, message):
    other = posed(1)
    other = replace(other, objective=changed(other.objective, **changes))
    with pytest.raises(
        ValueError, match=f"problems: number 1 differs from number 0 in .*{message}"
    ):
        solve_many(SOLVER, [posed(), other], POINTS)


def test_batches_of_different_sizes_are_refused():
    small = replace(posed(), objective=classification(count=9)[0])
    with pytest.raises(ValueError, match="problems: not alike"):
        solve_many(SOLVER, [posed(), small], POINTS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_runs_on_cuda():
    problem = posed(neighbourhood=Gaussian(0.2))
    there = torch.device("cuda")
    objective = changed(
        problem.objective,
        data=Data(problem.objective.data.batch(None, torch.Generator()), there, torch.float64),
        teacher={n: u.to(there) for n, u in problem.objective.term("proximity").teacher.items()},
    )
    start = {n: p.to(there) for n, p in problem.start.items()}
    (actual,) = solve_many(SOLVER, [replace(problem, objective=objective, start=start)], POINTS)
    for ours in actual:
        assert ours.params["0.weight"].device.type == "cuda"
        assert ours.objective < ours.start_objective


class Outside:
    """A solver that is no TorchOpt, and takes the steps of many solves by one."""

    def __init__(self, apart_reason=""):
        self.apart_reason, self.batch_size, self.driven = apart_reason, SOLVER.batch_size, []

    def solve(self, objective, start, *, seed, progress):
        return SOLVER.solve(objective, start, seed=seed, progress=progress)

    def transformation(self, every):
        return SOLVER.transformation(every)

    def drive(self, solves, began, bar):
        self.driven.append(len(solves))
        return SOLVER.drive(solves, began, bar)


def test_a_solver_from_outside_declares_that_it_solves_many():
    problem, solver = posed(), Outside()
    (outcomes,) = solve_many(solver, [problem], POINTS)
    assert sorted(solver.driven) == [
        1,
        1,
        1,
        2,
    ]  # with and without curvature, with and without noise
    for point, outcome in zip(POINTS, outcomes, strict=True):
        assert_same(outcome, alone(SOLVER, problem, point))
    with pytest.raises(ValueError, match=r"^solver: got .*, must sit still to be batched"):
        solve_many(Outside("must sit still"), [problem], POINTS)
