from dataclasses import replace

import pytest
import torch
import torchopt

from phiopt.objective import Lambdas, Stream
from phiopt.solve import Status, TorchOpt
from phiopt.solve.solves import COMPARED_ON, OneSolve, Validated
from tests.cases import classification, flatten, ridge

DESCENT = torchopt.sgd(0.15, momentum=0.8)


def test_the_closed_form_is_hit_on_a_frozen_sample():
    case = ridge()
    objective = case.objective()
    solver = TorchOpt(DESCENT, steps=2000, batch_size=None, fresh=False, tol=1e-10)
    outcome = solver.solve(objective, case.start, seed=3)
    noise = objective.sample(case.start, None, 3, Stream.TRAIN, 0).draws["noise"][0]
    assert outcome.status is Status.SOLVED
    torch.testing.assert_close(
        outcome.params["weight"][0], case.argmin(noise), rtol=1e-8, atol=1e-8
    )
    assert outcome.stats.steps < 2000


def test_many_samples_come_near_the_closed_form_in_expectation():
    case = ridge(samples=2000)
    solver = TorchOpt(DESCENT, steps=300, batch_size=None, fresh=False, tol=1e-6)
    outcome = solver.solve(case.objective(), case.start)
    torch.testing.assert_close(outcome.params["weight"][0], case.argmin(), rtol=0, atol=0.02)


def test_fresh_noise_with_a_decaying_step_finds_the_closed_form():
    case = ridge(samples=20)
    schedule = torchopt.schedule.polynomial_schedule(0.2, 0.002, 1, 120)
    solver = TorchOpt(torchopt.sgd(schedule), steps=160, batch_size=None)
    outcome = solver.solve(case.objective(), case.start)
    assert outcome.status is Status.BUDGET_SPENT
    torch.testing.assert_close(outcome.params["weight"][0], case.argmin(), rtol=0, atol=0.05)


OPTIMIZERS = {
    "default": None,
    "sgd": torchopt.sgd(0.05),
    "momentum": torchopt.sgd(0.02, momentum=0.9, nesterov=True),
    "rmsprop": torchopt.rmsprop(1e-2),
    "adamw": torchopt.adamw(1e-2),
    "schedule": torchopt.adam(torchopt.schedule.polynomial_schedule(1e-2, 1e-3, 1, 20)),
    "clipped": torchopt.chain(torchopt.clip.clip_grad_norm(0.5), torchopt.sgd(0.1)),
}
QUICK = {"default", "momentum", "clipped"}


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(o, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, o in OPTIMIZERS.items()
    ],
)
def test_any_optimizer_goes_downhill_and_repeats_bit_by_bit(optimizer):
    objective, start = classification(count=60)
    solver = TorchOpt(optimizer, steps=20, batch_size=16, check_every=10)
    first, again = (solver.solve(objective, start, seed=1) for _ in range(2))
    assert first.objective < first.start_objective
    assert torch.equal(flatten(first.params), flatten(again.params))
    assert first.history == again.history
    other = solver.solve(objective, start, seed=2)
    assert not torch.equal(flatten(first.params), flatten(other.params))


def test_history_terms_and_counts():
    objective, start = classification(count=60)
    outcome = TorchOpt(steps=7, batch_size=16, check_every=3).solve(objective, start)
    assert len(outcome.history) == outcome.stats.steps == outcome.stats.gradient == 7
    assert [("held_out" in record) for record in outcome.history] == [
        False, False, True, False, False, True, True,
    ]  # fmt: skip
    record = outcome.history[0]
    weights = dict(objective.lambdas.items())
    assert record["objective"] == pytest.approx(sum(weights[n] * record[n] for n in weights))
    best = min(record["held_out"] for record in outcome.history if "held_out" in record)
    assert outcome.objective == best
    weighted = sum(weights[n] * outcome.terms[n] for n in weights)
    assert outcome.objective == pytest.approx(weighted)
    started = sum(weights[n] * outcome.start_terms[n] for n in weights)
    assert outcome.start_objective == pytest.approx(started)
    evaluations = 7 + COMPARED_ON * 4  # judged at the start and at three checks
    assert outcome.stats.hvp == 2 * evaluations
    assert outcome.stats.forward == 3 * evaluations
    assert outcome.stats.seconds > 0


def test_the_start_and_the_global_random_state_are_untouched():
    objective, start = classification()
    before, state = flatten(start), torch.get_rng_state()
    outcome = TorchOpt(steps=5, batch_size=4).solve(objective, start)
    assert torch.equal(flatten(start), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad for p in outcome.params.values())
    kept = {p.untyped_storage().data_ptr() for p in start.values()}
    assert not kept & {p.untyped_storage().data_ptr() for p in outcome.params.values()}


def test_a_step_too_long_keeps_the_start_and_says_so():
    objective, start = classification()
    outcome = TorchOpt(torchopt.sgd(1e3), steps=5, batch_size=4).solve(objective, start)
    assert outcome.status is Status.DIVERGED
    assert torch.equal(flatten(outcome.params), flatten(start))
    assert outcome.objective == outcome.start_objective


def test_running_out_of_steps_before_the_tolerance_is_a_failure():
    objective, start = classification()
    outcome = TorchOpt(steps=5, batch_size=None, fresh=False, tol=1e-6).solve(objective, start)
    assert outcome.status is Status.STEP_LIMIT
    assert outcome.objective < outcome.start_objective


def test_a_tolerance_is_reached_on_fresh_draws():
    case = ridge(samples=50)
    solver = TorchOpt(torchopt.sgd(0.2), steps=500, batch_size=None, tol=0.05)
    outcome = solver.solve(case.objective(), case.start)
    assert outcome.status is Status.SOLVED
    assert outcome.stats.steps < 500


def test_nothing_to_do_is_solved_at_once():
    objective, start = classification((0, 1, 0, 0))
    for name, value in objective.term("proximity").teacher.items():
        start[name][tuple(slice(n) for n in value.shape)] = value
    outcome = TorchOpt().solve(replace(objective, data=None), start)
    assert outcome.status is Status.SOLVED
    assert outcome.stats.steps == 1
    assert torch.equal(flatten(outcome.params), flatten(start))


def faulty(objective, bad_calls, value=torch.nan):
    """The objective with ``value`` added to the loss at some evaluations on training samples."""
    calls = []

    def loss(outputs, targets):
        calls.append(len(outputs))
        return objective.loss(outputs, targets) + (value if len(calls) in bad_calls else 0.0)

    return replace(objective, loss=loss), calls


FAULTS = (0.5, 0.5, 0, 0)  # one call of the loss to an evaluation


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("step", [0, 1, 7, 10])
def test_one_bad_step_is_rolled_back(value, step):
    objective, start = classification(FAULTS, count=40)
    objective, _ = faulty(
        objective, {COMPARED_ON + 1 + step}, value
    )  # after the judgement of the start
    solver = TorchOpt(torchopt.sgd(0.1), steps=12, batch_size=8, check_every=100)
    outcome = solver.solve(objective, start)
    assert outcome.status is Status.BUDGET_SPENT
    assert outcome.stats.rollbacks == 1
    assert outcome.objective < outcome.start_objective
    assert all(p.isfinite().all() for p in outcome.params.values())


def test_after_a_rollback_the_step_is_half_as_long():
    objective, start = classification(FAULTS)
    solver = TorchOpt(torchopt.sgd(0.1), steps=2, batch_size=None)
    bad, _ = faulty(objective, {COMPARED_ON + 1})
    outcome = solver.solve(bad, start)
    sample = objective.sample(start, None, 0, Stream.TRAIN, 1)
    gradient = objective.value_and_grad(start, sample)[2]
    for name, p in outcome.params.items():
        torch.testing.assert_close(p, start[name] - 0.05 * gradient[name])


def test_the_best_iterate_survives_a_loss_that_stays_bad():
    objective, start = classification(FAULTS, count=40)
    bad, calls = faulty(objective, range(200, 10**6))
    solver = TorchOpt(torchopt.sgd(0.1), steps=500, batch_size=8, check_every=5)
    outcome = solver.solve(bad, start)
    assert outcome.status is Status.NON_FINITE
    assert outcome.stats.rollbacks == 3
    assert outcome.objective < outcome.start_objective
    assert len(calls) < 250  # it gave up
    judged = [record["held_out"] for record in outcome.history if "held_out" in record]
    assert outcome.objective == min(judged)


def test_divergence_to_infinity_ends_at_the_best_iterate():
    objective, start = classification(FAULTS, count=40)
    solver = TorchOpt(torchopt.sgd(1e200), steps=50, batch_size=8)
    outcome = solver.solve(objective, start)
    assert outcome.status in (Status.NON_FINITE, Status.DIVERGED)
    assert outcome.stats.rollbacks > 0
    assert torch.equal(flatten(outcome.params), flatten(start))


def test_a_start_that_is_not_finite_is_no_start():
    objective, start = classification(FAULTS)
    bad, _ = faulty(objective, range(10**6))
    outcome = TorchOpt().solve(bad, start)
    assert outcome.status is Status.NON_FINITE
    assert outcome.stats.steps == 0


def test_an_interrupt_before_the_first_value_goes_through():
    objective, start = classification(FAULTS)
    before = flatten(start)

    def loss(outputs, targets):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TorchOpt().solve(replace(objective, loss=loss), start)
    assert torch.equal(flatten(start), before)


def test_lambda_that_requires_grad_is_solved_without_a_graph():
    objective, start = classification()
    point = torch.tensor([0.3, 0.2, 0.3, 0.2], dtype=torch.float64, requires_grad=True)
    changed = replace(objective, lambdas=Lambdas.of(point))
    outcome = TorchOpt(steps=3).solve(changed, start)
    plain = TorchOpt(steps=3).solve(objective, start)
    torch.testing.assert_close(outcome.params, plain.params)


def test_progress_is_quiet_in_a_pipe(capsys):
    objective, start = classification()
    TorchOpt(steps=3).solve(objective, start, progress=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps: got 0"),
        ({"batch_size": -1}, ValueError, "batch_size: got -1"),
        ({"check_every": 0}, ValueError, "check_every: got 0"),
        ({"tol": 0.0}, ValueError, "tol: got 0.0"),
        ({"tol": 1.5}, ValueError, "tol: got 1.5"),
        ({"steps": 1.5}, TypeError, "steps: got 1.5"),
        ({"optimizer": torch.optim.Adam}, TypeError, "optimizer: got .*must be a TorchOpt"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        TorchOpt(**options)


def test_ending_above_the_start_is_divergence_though_a_better_iterate_is_returned():
    objective, start = classification((0.5, 0.5, 0, 0), count=40)
    growing = torchopt.sgd(lambda step: 0.05 * 1.6**step)
    outcome = TorchOpt(growing, steps=25, batch_size=None, check_every=1).solve(objective, start)
    assert outcome.status is Status.DIVERGED
    assert outcome.objective < outcome.start_objective < outcome.history[-1]["held_out"]


def test_a_step_too_short_for_the_precision_is_a_stall():
    objective, start = classification((0.5, 0.5, 0, 0))
    outcome = TorchOpt(torchopt.sgd(1e-30), steps=2, batch_size=None).solve(objective, start)
    assert outcome.status is Status.STALLED
    assert torch.equal(flatten(outcome.params), flatten(start))


def test_a_gradient_within_its_own_error_is_the_noise_floor():
    """One noise sample: the gradient at the minimum is noise, and no tolerance below is reached."""
    case = ridge(samples=1, delta=1.0, lambdas=(0.05, 0.05, 0.9, 0))
    solver = TorchOpt(torchopt.sgd(0.05), steps=300, batch_size=None, tol=1e-6)
    outcome = solver.solve(case.objective(), case.start)
    assert outcome.status is Status.NOISE_FLOOR
    assert outcome.objective < outcome.start_objective
    early = replace(solver, steps=3).solve(case.objective(), case.start)
    assert early.status is Status.STEP_LIMIT


@pytest.mark.parametrize(("end", "status"), [(0.9, Status.BUDGET_SPENT), (1.3, Status.DIVERGED)])
def test_an_end_above_the_start_is_looked_at_on_all_validation_samples(monkeypatch, end, status):
    """On the samples of comparisons the objective rises from 1 to 1.1, on all from 1.2 to ``end``."""
    objective, start = classification((0.5, 0.5, 0, 0))
    terms = {name: torch.zeros(()) for name in ("task", "proximity")}

    def validate(solve, params, number=COMPARED_ON):
        first = params is solve.start
        value = (1.0 if first else 1.1) if number else (1.2 if first else end)
        return Validated([value], terms)

    monkeypatch.setattr(OneSolve, "validate", validate)
    outcome = TorchOpt(steps=3).solve(objective, start)
    assert outcome.status is status
    moved = status is Status.BUDGET_SPENT
    assert (outcome.start_objective, outcome.objective) == ((1.2, 0.9) if moved else (1.0, 1.0))
    assert torch.equal(outcome.params["0.bias"], start["0.bias"]) is not moved
