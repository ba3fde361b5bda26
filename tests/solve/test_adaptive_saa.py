"""The frozen sample's size: chosen so that the decrease holds elsewhere."""

from dataclasses import dataclass, fields, replace

import pytest
import torch

from phiopt.objective import Objective, Stream
from phiopt.solve import LBFGS, NewtonCG, Status, adaptive_saa
from phiopt.solve.certificate import certify, fresh_draws, holds
from tests.cases import classification, flatten, ridge


@pytest.fixture
def _small(monkeypatch):
    """Samples of 1 to 16 draws: the same rules, at less work."""
    monkeypatch.setattr(adaptive_saa, "FIRST", 1)
    monkeypatch.setattr(adaptive_saa, "LARGEST", 16)


def problem():
    """One batch of 24 of its random labels is learned by heart."""
    return classification((0.8, 0.05, 0.15, 0), count=200)


SOLVER = LBFGS(batch_size=24, tol=3e-2)


def decrease(objective, start, params):
    certificate = certify(objective, start, params, fresh_draws(objective, start, None, 0))
    return certificate.start_objective - certificate.objective


@pytest.mark.usefixtures("_small")
def test_the_sample_grows_until_its_decrease_holds():
    objective, start = problem()
    small = replace(SOLVER, draws=1).solve(objective, start)
    grown = SOLVER.solve(objective, start)
    assert not holds(small, decrease(objective, start, small.params))
    assert 1 < len(grown.saa_samples) < 16
    assert holds(grown, decrease(objective, start, grown.params))
    assert grown.status is Status.SOLVED
    assert grown.stats.steps == len(grown.history) > small.stats.steps
    assert grown.stats.gradient > small.stats.gradient


@pytest.mark.usefixtures("_small")
def test_the_solution_is_the_minimiser_of_the_last_sample():
    objective, start = problem()
    grown = SOLVER.solve(objective, start)
    draws = [objective.sample(start, 24, 0, Stream.TRAIN, i) for i in range(len(grown.saa_samples))]
    for ours, theirs in zip(grown.saa_samples, draws, strict=True):
        assert torch.equal(ours.inputs, theirs.inputs)

    def slope(params):
        each = [flatten(objective.value_and_grad(params, draw)[2]) for draw in draws]
        return torch.stack(each).mean(0).norm()

    assert slope(grown.params) <= 3e-2 * slope(start)
    values = torch.stack([objective.value(grown.params, draw) for draw in draws])
    assert grown.objective == pytest.approx(float(values.mean()))


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("stream", [Stream.HELD_OUT, Stream.TRAIN])
def test_data_that_break_while_it_grows_leave_the_minimiser_so_far(stream):
    objective, start = problem()
    gone = OSError("gone")

    @dataclass(frozen=True, eq=False)
    class Breaking(Objective):
        def samples(self, params, size, seed, stream_, steps, **options):
            if stream_ is stream and max(steps) > 0:
                raise gone
            return super().samples(params, size, seed, stream_, steps, **options)

    breaking = Breaking(**{f.name: getattr(objective, f.name) for f in fields(objective)})
    actual = SOLVER.solve(breaking, start)
    expected = replace(SOLVER, draws=1).solve(objective, start)
    assert actual.status is Status.DATA_FAILED
    assert actual.error is gone
    assert torch.equal(flatten(actual.params), flatten(expected.params))


@pytest.mark.usefixtures("_small")
def test_growth_ends_at_the_limit(monkeypatch):
    objective, start = problem()
    monkeypatch.setattr(adaptive_saa, "LARGEST", 2)
    assert len(replace(SOLVER, batch_size=6).solve(objective, start).saa_samples) == 2


@pytest.mark.usefixtures("_small")
def test_growth_ends_with_the_steps():
    objective, start = problem()
    alone = replace(SOLVER, draws=1).solve(objective, start).stats.steps
    actual = replace(SOLVER, steps=alone + 2).solve(objective, start)
    assert actual.status is Status.STEP_LIMIT
    assert actual.stats.steps == alone + 2


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(LBFGS(), id="lbfgs"),
        pytest.param(NewtonCG(tol=1e-4), id="newton-cg", marks=pytest.mark.slow),
    ],
)
def test_a_sample_that_holds_at_once_is_left_alone(solver):
    case = ridge()
    outcome = solver.solve(case.objective(), case.start, seed=3)
    fixed = replace(solver, draws=adaptive_saa.FIRST).solve(case.objective(), case.start, seed=3)
    assert len(outcome.saa_samples) == adaptive_saa.FIRST
    assert torch.equal(flatten(outcome.params), flatten(fixed.params))
    assert outcome.stats.forward > fixed.stats.forward  # the check is counted


def test_without_data_there_is_one_draw():
    objective, start = classification((0, 1, 0, 0))
    assert len(LBFGS().solve(replace(objective, data=None), start).saa_samples) == 1
