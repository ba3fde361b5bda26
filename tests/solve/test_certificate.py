from dataclasses import replace

import pytest
import torch
from torch import nn

import phiopt
from phiopt.objective import Stream
from phiopt.solve import LBFGS, Spectrum, Status, certify, fresh_draws, verdict
from phiopt.solve.certificate import DRAWS, dead_units, moments
from phiopt.solve.counted import Counted
from tests.cases import classification, dense_hessian, flatten, ridge


def test_moments_are_those_of_the_draws():
    objective, params = classification(count=30)
    samples = [objective.sample(params, 6, 0, Stream.FRESH, i) for i in range(5)]
    got = moments(Counted(objective), params, samples)
    each = [objective.value_and_grad(params, sample) for sample in samples]
    gradients = torch.stack([flatten(gradient) for _, _, gradient in each])
    torch.testing.assert_close(flatten(got.gradient), gradients.mean(0))
    torch.testing.assert_close(got.gradient_norm, float(gradients.mean(0).norm()))
    torch.testing.assert_close(got.gradient_error, float((gradients.var(0).sum() / 5).sqrt()))
    torch.testing.assert_close(got.value, float(torch.stack([v for v, _, _ in each]).mean()))
    for name, error in got.standard_errors.items():
        values = torch.stack([terms[name] for _, terms, _ in each])
        torch.testing.assert_close(got.terms[name], float(values.mean()))
        torch.testing.assert_close(error, float(values.std()) / 5**0.5, atol=1e-12, rtol=1e-6)
    assert got.standard_errors["proximity"] == 0


def test_a_minimum_is_certified():
    """In expectation over the noise the closed form has no gradient: it is within the error."""
    case = ridge(samples=400)
    w = {"weight": case.argmin()[None]}
    objective = case.objective()
    draws = fresh_draws(objective, w, None, 0)
    certificate = certify(objective, case.start, w, draws)
    assert certificate.gradient_norm < 3 * certificate.gradient_norm_error
    assert certificate.gradient_norm < 0.05
    assert certificate.objective < certificate.start_objective
    assert certificate.draws == DRAWS
    away = certify(objective, case.start, case.start, draws)
    assert away.gradient_norm == 1
    assert away.gradient_norm > 10 * away.gradient_norm_error


def test_curvature_along_the_gradient_is_that_of_the_dense_hessian():
    objective, params = classification((0.5, 0.5, 0, 0))  # nothing sampled
    (sample, *_) = draws = fresh_draws(objective, params, None, 0)
    certificate = certify(objective, params, params, draws)
    g = flatten(objective.value_and_grad(params, sample)[2])
    hessian = dense_hessian(lambda w: objective.value(w, sample), params)
    expected = float(g @ hessian @ g / (g @ g))
    assert certificate.curvature_along_gradient == pytest.approx(expected, rel=1e-6)
    assert certificate.gradient_norm_error == 0


def test_without_data_and_at_the_teacher_everything_is_zero():
    objective, params = classification((0, 1, 0, 0))
    objective = replace(objective, data=None)
    for name, value in objective.term("proximity").teacher.items():
        params[name][tuple(slice(n) for n in value.shape)] = value
    certificate = certify(objective, params, params, fresh_draws(objective, params, None, 0))
    assert (certificate.gradient_norm, certificate.objective, certificate.draws) == (0, 0, 1)
    assert certificate.curvature_along_gradient is None


def test_nothing_is_fitted_to_its_draws():
    """Draws of the certificate differ from those of training and of the choice of the iterate."""
    objective, params = classification(count=30)
    one = {
        stream: objective.sample(params, 6, 0, stream, 0).draws["curvature"].probes["0.weight"]
        for stream in Stream
    }
    others = [probe for stream, probe in one.items() if stream is not Stream.FRESH]
    assert not any(torch.equal(one[Stream.FRESH], probe) for probe in others)


def outcome(objective, start, **options):
    return LBFGS(**{"batch_size": 6, "draws": 2, "tol": 1e-6} | options).solve(objective, start)


def certified(objective, start, actual, **changes):
    draws = fresh_draws(objective, start, 6, 0)
    return replace(certify(objective, start, actual.params, draws), **changes)


@pytest.mark.parametrize(("least", "expected"), [(-0.1, Status.SADDLE), (0.1, Status.SOLVED)])
def test_a_negative_eigenvalue_makes_a_solution_a_saddle(least, expected):
    objective, start = classification((0.5, 0.5, 0, 0))
    result = outcome(objective, start, batch_size=None, draws=1)
    assert result.status is Status.SOLVED
    ends = Spectrum(least=least, largest=5.0, residual=0.0, products=3)
    assert verdict(result, certified(objective, start, result, spectrum=ends)) is expected
    flat = replace(ends, least=-1e-9)  # zero, to rounding
    assert verdict(result, certified(objective, start, result, spectrum=flat)) is Status.SOLVED


def test_a_decrease_that_does_not_hold_on_fresh_draws_is_a_small_sample():
    """Six weights fit three examples; targets are random, so that fresh examples are fitted worse
    than at the start. The problem is quadratic: nothing hangs on the path of the solver.
    """
    case = ridge(samples=1, delta=0.1, lambdas=(0.9, 0.05, 0.05, 0))
    objective, start = case.objective(), case.start
    small = outcome(objective, start, batch_size=3, draws=1)
    certificate = certified(objective, start, small)
    assert small.status is Status.SOLVED
    assert certificate.objective > certificate.start_objective
    assert verdict(small, certificate) is Status.SAMPLE_TOO_SMALL
    assert small.objective < certificate.objective / 10  # it is over-fitted
    large = outcome(objective, start, batch_size=None, draws=4, tol=1e-3)
    assert verdict(large, certified(objective, start, large)) is Status.SOLVED


def test_failures_stay_what_they_are():
    objective, start = classification()
    result = outcome(objective, start, steps=1)
    ends = Spectrum(least=-1.0, largest=5.0, residual=0.0, products=3)
    assert verdict(result, certified(objective, start, result, spectrum=ends)) is Status.STEP_LIMIT


def test_the_error_of_the_decrease_is_that_of_paired_differences():
    objective, params = classification(count=30)
    other = {name: value + 0.1 for name, value in params.items()}
    draws = fresh_draws(objective, params, 6, 0)
    certificate = certify(objective, other, params, draws)
    falls = torch.stack([objective.value(other, s) - objective.value(params, s) for s in draws])
    assert certificate.start_objective - certificate.objective == pytest.approx(float(falls.mean()))
    assert certificate.decrease_error == pytest.approx(float(falls.std()) / DRAWS**0.5)


def test_the_spectrum_and_the_restarts_are_those_asked_for():
    objective, params = classification()
    (sample, *_) = draws = fresh_draws(objective, params, None, 0)
    certificate = certify(
        objective, params, params, draws, curved_on=[sample], restarts=[params] * 2
    )
    values = torch.linalg.eigvalsh(dense_hessian(lambda w: objective.value(w, sample), params))
    assert certificate.spectrum.least == pytest.approx(float(values[0]), rel=0.02)
    assert certificate.spectrum.largest == pytest.approx(float(values[-1]), rel=0.02)
    assert certificate.restarts == pytest.approx((certificate.objective,) * 2)


def gradients(*shapes):
    return {f"{i}.weight": torch.ones(shape) for i, shape in enumerate(shapes)}


def test_both_sides_must_be_zero():
    g = gradients((4, 3), (5, 4))
    assert dead_units(g) == {}
    g["0.weight"][1:3] = 0
    g["1.weight"][:, 2:] = 0
    assert dead_units(g) == {"0.weight": 1}


def test_columns_of_flattened_channels_go_with_their_kernel():
    g = gradients((2, 1, 3, 3), (5, 2 * 4))
    g["0.weight"][1] = 0
    g["1.weight"][:, 4:7] = 0
    assert dead_units(g) == {}
    g["1.weight"][:, 7] = 0
    assert dead_units(g) == {"0.weight": 1}


def test_the_last_weight_and_one_without_a_reader_speak_by_their_rows():
    g = gradients((4, 3), (5, 7)) | {"1.bias": torch.zeros(5)}
    g["0.weight"][0] = 0
    g["1.weight"][3:] = 0
    assert dead_units(g) == {"0.weight": 1, "1.weight": 2}


def test_weights_without_entries_have_no_units():
    g = gradients((4, 3), (0, 3), (5, 4))
    assert dead_units(g) == {}
    g["0.weight"][1] = g["2.weight"][:, 1] = 0
    assert dead_units(g) == {"0.weight": 1}


@pytest.mark.parametrize(("start", "dead"), [("zero", 6), ("zero-out", 0), ("default", 0)])
def test_growth_by_zeros_is_dead_and_zero_out_is_not(start, dead):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
        student = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 3))
        data = torch.randn(50, 4), torch.randint(3, (50,))
    solver = phiopt.TorchOpt(steps=2, batch_size=None)
    solution = phiopt.initialize(
        teacher, student, (0.5, 0.5, 0, 0), data, start=start, solver=solver, throw=False
    )
    assert sum(solution.certificate.dead_units.values()) == dead
