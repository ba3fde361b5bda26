from dataclasses import replace

import pytest
import torch
from torch.func import grad, vmap

from phiopt.objective import Corruption, Frobenius, Gaussian, Lambdas, Spectral, Stream
from tests.cases import (
    changed,
    classification,
    dense_hessian,
    flatten,
    plain_loss,
    plain_mlp,
    randn,
)

LAMBDAS = (0.3, 0.2, 0.35, 0.15)


def drawn(objective, params, **changes):
    key = {"size": None, "seed": 0, "stream": Stream.TRAIN, "step": 0} | changes
    return objective.sample(params, **key)


def written_out(objective, params, sample):
    """The weighted sum from dense algebra alone."""
    x, y = sample.inputs, sample.targets
    u = objective.term("proximity").teacher
    proximity = sum(
        (u[n] - params[n][tuple(slice(k) for k in u[n].shape)]).square().sum() for n in u
    )
    noisy = objective.term("noise").neighbourhood.perturb(x, sample.draws["noise"])
    hessian = dense_hessian(lambda w: plain_loss(w, x, y), params)
    probes = [
        flatten({n: p[i] for n, p in sample.draws["curvature"].probes.items()})
        for i in range(objective.term("curvature").estimator.probes)
    ]
    terms = {
        "task": plain_loss(params, x, y),
        "proximity": proximity,
        "noise": torch.stack([plain_loss(params, batch, y) for batch in noisy]).mean(),
        "curvature": torch.stack([(hessian @ v).square().sum() for v in probes]).mean(),
    }
    return sum(w * terms[n] for n, w in objective.lambdas.items()), terms


def test_value_terms_and_gradient_against_dense_algebra():
    objective, params = classification(LAMBDAS)
    sample = drawn(objective, params)
    value, terms, gradient = objective.value_and_grad(params, sample)
    expected, expected_terms = written_out(objective, params, sample)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(objective.value(params, sample), expected)
    torch.testing.assert_close(terms, expected_terms)
    torch.testing.assert_close(objective.evaluate(params, sample), expected_terms)
    dense = grad(lambda w: written_out(objective, w, sample)[0])(params)
    torch.testing.assert_close(gradient, dense)


@pytest.mark.parametrize("absent", ["task", "noise", "curvature"])
def test_a_term_without_weight_is_not_computed(absent):
    weights = {
        n: 0.0 if n == absent else w for n, w in zip(Lambdas.__annotations__, LAMBDAS, strict=True)
    }
    total = sum(weights.values())
    objective, params = classification([w / total for w in weights.values()])
    sample = drawn(objective, params)
    value, terms, gradient = objective.value_and_grad(params, sample)
    if absent != "task":  # which comes with the curvature for nothing
        assert absent not in terms
    torch.testing.assert_close(value, written_out(objective, params, sample)[0])
    dense = grad(lambda w: written_out(objective, w, sample)[0])(params)
    torch.testing.assert_close(gradient, dense)


def test_without_data_there_is_the_proximity_alone():
    objective, params = classification((0, 1, 0, 0))
    objective = replace(objective, data=None)
    sample = drawn(objective, params)
    assert sample.inputs is None
    value, terms, gradient = objective.value_and_grad(params, sample)
    assert list(terms) == list(objective.evaluate(params, sample)) == ["proximity"]
    assert value == terms["proximity"]
    assert gradient["0.weight"][3:].count_nonzero() == 0


def test_a_sample_is_a_function_of_seed_stream_and_step():
    objective, params = classification(count=40)

    def all_of(sample):
        return torch.cat(
            [
                sample.inputs.flatten(),
                sample.draws["noise"][0].flatten(),
                sample.draws["curvature"].probes["0.weight"].flatten(),
            ]
        )

    first = all_of(drawn(objective, params, size=8))
    assert torch.equal(first, all_of(drawn(objective, params, size=8)))
    for change in ({"seed": 1}, {"stream": Stream.FRESH}, {"step": 1}):
        assert not torch.equal(first, all_of(drawn(objective, params, **{"size": 8} | change)))


def test_drawing_and_evaluating_leave_the_global_random_state_alone():
    objective, params = classification(LAMBDAS)
    state = torch.get_rng_state()
    objective.value_and_grad(params, drawn(objective, params))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_relative_scale_makes_terms_of_order_one():
    objective, params = classification(LAMBDAS)
    samples = [drawn(objective, params, step=i) for i in range(3)]
    relative = objective.relative(params, samples)
    curvature = torch.stack([objective.evaluate(params, s)["curvature"] for s in samples]).mean()
    assert relative.divisors["curvature"] == pytest.approx(float(curvature))
    norm = sum(float(u.square().sum()) for u in objective.term("proximity").teacher.values())
    assert relative.divisors["proximity"] == pytest.approx(norm)
    value, terms, gradient = relative.value_and_grad(params, samples[0])
    w = relative.lambdas
    expected = w.task * terms["task"] + w.proximity * terms["proximity"] / norm
    expected += w.noise * terms["noise"] + w.curvature * terms["curvature"] / curvature
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, grad(relative.value)(params, samples[0]))
    torch.testing.assert_close(
        terms["curvature"], objective.evaluate(params, samples[0])["curvature"]
    )


def test_a_unit_that_comes_out_negative_is_taken_by_its_size():
    class Negative(Frobenius):
        """An estimate that comes out below 0."""

        def __call__(self, task, params, probes):
            value, curvature = super().__call__(task, params, probes)
            return value, -curvature

    objective, params = classification(LAMBDAS, curvature=Negative())
    samples = [drawn(objective, params, step=i) for i in range(3)]
    known = [float(objective.evaluate(params, s)["curvature"]) for s in samples]
    assert max(known) < 0
    divisor = objective.relative(params, samples).divisors["curvature"]
    assert divisor == pytest.approx(-sum(known) / len(samples))


def test_a_unit_that_is_zero_is_left_out():
    objective, params = classification(LAMBDAS)
    silent = {name: torch.zeros_like(u) for name, u in objective.term("proximity").teacher.items()}
    divisors = (
        changed(objective, teacher=silent).relative(params, [drawn(objective, params)]).divisors
    )
    assert "proximity" not in divisors


def test_derivatives_in_lambda_delta_and_the_teacher():
    """A gradient step is a function of λ, δ and u too: against central differences."""
    objective, params = classification(LAMBDAS, neighbourhood=Gaussian(0.3))
    sample = drawn(objective, params)
    weight = randn(len(flatten(params)), seed=5)

    def step(point, delta, u):
        moved = changed(
            objective, lambdas=Lambdas.of(point), neighbourhood=Gaussian(delta), teacher=u
        )
        return flatten(moved.value_and_grad(params, sample)[2]) @ weight

    point = torch.tensor(LAMBDAS, dtype=torch.float64)
    delta = torch.tensor(0.3, dtype=torch.float64)
    u = objective.term("proximity").teacher
    in_point, in_delta, in_u = grad(step, argnums=(0, 1, 2))(point, delta, u)
    _, terms, _ = objective.value_and_grad(params, sample)
    for i, name in enumerate(terms):
        alone = grad(lambda w, name=name: objective.evaluate(w, sample)[name])(params)
        torch.testing.assert_close(in_point[i], flatten(alone) @ weight)
    h = 1e-5
    numeric = (step(point, delta + h, u) - step(point, delta - h, u)) / (2 * h)
    torch.testing.assert_close(in_delta, numeric, rtol=1e-6, atol=1e-9)
    d = {name: randn(*value.shape, seed=3) for name, value in u.items()}
    up, down = ({n: u[n] + s * d[n] for n in u} for s in (h, -h))
    numeric = (step(point, delta, up) - step(point, delta, down)) / (2 * h)
    along = sum((in_u[n] * d[n]).sum() for n in u)
    torch.testing.assert_close(along, numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("curvature", [None, Spectral(iterations=3)])
def test_vmap_over_lambda_and_stacked_parameters(curvature):
    objective, params = classification(LAMBDAS, curvature=curvature)
    sample = drawn(objective, params)
    points = torch.tensor([LAMBDAS, (0.25, 0.25, 0.25, 0.25)], dtype=torch.float64)
    stacked = {n: torch.stack([p, p + 0.1]) for n, p in params.items()}

    def solved(point, w):
        return replace(objective, lambdas=Lambdas.of(point)).value_and_grad(w, sample)

    values, terms, gradients = vmap(solved)(points, stacked)
    for i, point in enumerate(points):
        one = replace(objective, lambdas=Lambdas.of(point))
        value, each, gradient = one.value_and_grad({n: p[i] for n, p in stacked.items()}, sample)
        torch.testing.assert_close(values[i], value)
        torch.testing.assert_close({n: t[i] for n, t in terms.items()}, each)
        torch.testing.assert_close({n: g[i] for n, g in gradients.items()}, gradient)


def test_a_step_of_plain_descent_is_differentiable_by_autograd_too():
    objective, params = classification(LAMBDAS)
    sample = drawn(objective, params)
    point = torch.tensor(LAMBDAS, dtype=torch.float64, requires_grad=True)
    changed = replace(objective, lambdas=Lambdas.of(point))
    _, _, gradient = changed.value_and_grad(params, sample)
    (slope,) = torch.autograd.grad(gradient["0.bias"].sum(), point)
    one = grad(lambda w: objective.evaluate(w, sample)["noise"])(params)
    torch.testing.assert_close(slope[2], one["0.bias"].sum())


def test_corruption_goes_through():
    objective, params = classification(LAMBDAS, neighbourhood=Corruption(0.5, samples=2))
    sample = drawn(objective, params)
    expected, _ = written_out(objective, params, sample)
    torch.testing.assert_close(objective.value(params, sample), expected)


def test_the_lift_is_applied_to_the_noisy_inputs():
    """x' is drawn around x in the teacher's space, then lifted."""
    base, params = classification(LAMBDAS)

    def doubled(w, x):
        return plain_mlp(w, 2 * x)

    objective = replace(base, model=doubled)
    sample = drawn(objective, params)
    noisy = objective.term("noise").neighbourhood.perturb(sample.inputs, sample.draws["noise"])
    expected = torch.stack([plain_loss(params, 2 * x, sample.targets) for x in noisy]).mean()
    torch.testing.assert_close(objective.evaluate(params, sample)["noise"], expected)


def test_arguments_are_not_modified():
    objective, params = classification(LAMBDAS)
    sample = drawn(objective, params)
    before = {n: p.clone() for n, p in params.items()}
    x = sample.inputs.clone()
    objective.value_and_grad(params, sample)
    assert all(torch.equal(params[n], before[n]) for n in before)
    assert torch.equal(sample.inputs, x)
