import pytest
import torch
import torchopt
from torch.func import grad
from torch.nn.functional import cross_entropy

from phiopt.derivatives import gauss_newton, square_norm
from phiopt.objective import CurvatureTerm, Frobenius, Spectral, Stream, Uniform
from phiopt.objective.importance import importance_sample, leverage_scores
from phiopt.objective.probes import draw_probes
from phiopt.solve import TorchOpt
from tests.cases import (
    classification,
    dense_hessian,
    flatten,
    generator,
    plain_loss,
    plain_mlp,
    plain_setting,
    randn,
    unflatten,
)


def test_all_sign_vectors_give_the_frobenius_norm_exactly():
    """E ‖H v‖² over all 2^n sign vectors is ‖H‖_F², with no sampling left: here n = 5."""
    matrix = randn(5, 5)
    matrix = matrix + matrix.T

    def quadratic(w):
        return 0.5 * w["w"] @ matrix @ w["w"]

    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 5)
    _, curvature = Frobenius(probes=32)(quadratic, {"w": randn(5, seed=1)}, {"w": signs})
    torch.testing.assert_close(curvature, matrix.square().sum())


def test_frobenius_and_its_gradient_are_those_of_the_dense_hessian():
    loss, params = plain_setting()
    probes = draw_probes(params, 3, generator(1))
    vectors = torch.stack([flatten({n: p[i] for n, p in probes.items()}) for i in range(3)])

    def densely(w):
        return (vectors @ dense_hessian(loss, w)).square().sum(1).mean()

    value, curvature = Frobenius(probes=3)(loss, params, probes)
    torch.testing.assert_close(value, loss(params))
    torch.testing.assert_close(curvature, densely(params))
    gradient = grad(lambda w: Frobenius(probes=3)(loss, w, probes)[1])(params)
    torch.testing.assert_close(gradient, grad(densely)(params))


def test_the_estimate_lies_within_its_standard_error():
    loss, params = plain_setting()
    draws = torch.stack(
        [Frobenius()(loss, params, draw_probes(params, 1, generator(s)))[1] for s in range(200)]
    )
    truth = dense_hessian(loss, params).square().sum()
    assert abs(draws.mean() - truth) < 4 * draws.std() / len(draws) ** 0.5
    assert draws.std() / truth < 2**0.5


@pytest.mark.parametrize("term", [Frobenius(), Spectral()])
def test_no_curvature_is_zero_with_a_zero_gradient(term):
    params = {"w": randn(3)}
    probes = draw_probes(params, 1, generator())

    def flat(w):
        return w["w"].sum() + 0 * w["w"].square().sum()

    assert term(flat, params, probes)[1] == 0
    gradient = grad(lambda w: term(flat, w, probes)[1])(params)
    assert square_norm(gradient) == 0


def parts(objective, params, sample):
    """A and B as a step takes them, and their Hessians."""
    task = objective._task(sample)
    scores = leverage_scores(task, task.outputs(params))
    size = objective.term("curvature").estimator.part(len(task))
    results = [
        importance_sample(task, scores, size, offset)
        for offset in sample.draws["curvature"].offsets
    ]
    return [lambda w, t=t: dense_hessian(t, w) for t in results]


def step_and_probe(objective, params, **key):
    sample = objective.sample(params, None, **({"seed": 0, "step": 0} | key))
    return sample, flatten({name: p[0] for name, p in sample.draws["curvature"].probes.items()})


def with_offsets(sample, offsets):
    draws = sample.draws["curvature"]._replace(offsets=offsets)
    return sample._replace(draws={**sample.draws, "curvature": draws})


ONLY = (0, 1e-9, 0, 1 - 1e-9)  # λ2 must be positive


@pytest.mark.parametrize("stream", [Stream.TRAIN, Stream.HELD_OUT, Stream.FRESH, Stream.REFERENCE])
def test_the_whole_batch_where_values_are_judged(stream):
    objective, params = classification(ONLY, curvature=Frobenius(batch=0.5), count=40)
    exact = objective.with_term(CurvatureTerm(Frobenius()))
    samples = [o.sample(params, 36, 0, stream, 1) for o in (objective, exact)]
    gradients, expected = (exact.value_and_grad(params, sample) for sample in samples)
    torch.testing.assert_close(objective.value_and_grad(params, samples[0]), expected)
    torch.testing.assert_close(gradients, expected)


def test_a_step_differentiates_one_side():
    """Two small parts; and with A and B exchanged the two gradients' mean is the two-sided one."""
    objective, params = classification(ONLY, curvature=Frobenius(batch=0.8), count=50)
    sample, v = step_and_probe(objective, params, stream=Stream.STEP)
    first, second = parts(objective, params, sample)
    _, terms, gradient = objective.value_and_grad(params, sample)
    torch.testing.assert_close(terms["curvature"], (first(params) @ v) @ (second(params) @ v))
    b = second(params) @ v
    expected = grad(lambda w: 2 * (first(w) @ v) @ b)(params)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)
    turned = with_offsets(sample, sample.draws["curvature"].offsets.flip(0))
    other = objective.value_and_grad(params, turned)[2]
    both = grad(lambda w: (first(w) @ v) @ (second(w) @ v))(params)
    torch.testing.assert_close(
        (flatten(gradient) + flatten(other)) / 2, flatten(both), rtol=1e-6, atol=1e-7
    )


@pytest.mark.slow
@pytest.mark.parametrize("lambdas", [ONLY, (0.3, 0.2, 0.2, 0.3)])
def test_a_step_has_the_expectation_of_an_exact_one(lambdas):
    """Over the offsets, with everything else of the sample kept."""
    objective, params = classification(lambdas, count=40)
    sample, _ = step_and_probe(objective, params, stream=Stream.STEP)
    _, terms, expected = objective.value_and_grad(params, with_offsets(sample, None))
    offsets = torch.rand(400, 2, generator=generator(7), dtype=torch.float64)
    values, gradients = [], []
    for pair in offsets:
        _, result, gradient = objective.value_and_grad(params, with_offsets(sample, pair))
        values.append(result["curvature"])
        gradients.append(flatten(gradient))
    for draws, truth in (
        (torch.stack(values), terms["curvature"]),
        (torch.stack(gradients), flatten(expected)),
    ):
        error = (draws.mean(0) - truth).norm()
        assert error < 2 * draws.std(0).norm() / 20
        assert error < 0.2 * truth.norm()


def test_small_batches_and_no_share_are_exact():
    assert Frobenius().part(16) is None
    assert Frobenius().part(17) == 8
    assert Frobenius(batch=None).part(1000) is None
    assert Spectral().part(1000) is None
    objective, params = classification(ONLY, count=12)
    assert (
        step_and_probe(objective, params, stream=Stream.STEP)[0].draws["curvature"].offsets is None
    )


def test_the_jacobian_of_a_steps_gradient_sees_both_sides_move():
    """What an adjoint differentiates: the gradient as a function of w, b included."""
    objective, params = classification((0.3, 0.2, 0.2, 0.3), count=40)
    sample, _ = step_and_probe(objective, params, stream=Stream.STEP)
    weight, d = (randn(len(flatten(params)), seed=s) for s in (5, 6))

    def projected(vector):
        w = unflatten(vector, params)
        return flatten(objective.value_and_grad(w, sample)[2]) @ weight

    w, h = flatten(params), 1e-5
    numeric = (projected(w + h * d) - projected(w - h * d)) / (2 * h)
    torch.testing.assert_close(grad(projected)(w) @ d, numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("curvature", [Frobenius(), Frobenius(every=4)])
def test_cheap_steps_reach_what_exact_ones_reach(curvature):
    """Within 1 % on fresh draws, in as many steps, once the rate has decayed."""
    equal = (0.25, 0.25, 0.25, 0.25)
    objective, start = classification(equal, count=256, neighbourhood=Uniform(0.3))
    judge = objective.with_term(CurvatureTerm(Frobenius(probes=16)))
    with torch.no_grad():
        draws = [judge.sample(start, None, 9, Stream.FRESH, i) for i in range(20)]
        judge = judge.relative(start, draws)
    optimizer = torchopt.adam(torchopt.schedule.linear_schedule(2e-2, 2e-4, 2000, 0))
    solver = TorchOpt(optimizer, steps=2000, batch_size=128)

    def reached(curvature):
        changed = judge.with_term(CurvatureTerm(curvature))
        params = solver.solve(changed, start, seed=0).params
        return torch.stack([judge.value(params, draw) for draw in draws]).mean()

    assert reached(curvature) < 1.01 * reached(Frobenius(batch=None))


def test_gauss_newton_against_its_products():
    objective, params = classification(ONLY, curvature=Frobenius(matrix="gauss-newton"))
    sample, v = step_and_probe(objective, params, stream=Stream.TRAIN)
    x, y = sample.inputs, sample.targets
    at = gauss_newton(lambda w: plain_mlp(w, x), lambda z: cross_entropy(z, y), params)
    expected = square_norm(at.hvp(unflatten(v, params)))
    torch.testing.assert_close(objective.evaluate(params, sample)["curvature"], expected)
    with pytest.raises(TypeError, match="must be a Task"):
        objective.term("curvature").estimator(
            lambda w: plain_loss(w, x, y), params, sample.draws["curvature"].probes
        )


def test_the_products_are_counted():
    assert Frobenius(probes=4).products == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": 0}, "probes: got 0"),
        ({"every": 0}, "every: got 0"),
        ({"batch": 0.0}, "batch: got 0.0"),
        ({"batch": 1.5}, "batch: got 1.5"),
        ({"distribution": "cauchy"}, "distribution: got 'cauchy', must be one of rademacher"),
        ({"matrix": "fisher"}, "matrix: got 'fisher', must be one of hessian"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Frobenius(**options)


def test_unflatten_is_the_inverse_of_flatten():
    params = {"a": randn(2, 3), "b": randn(4)}
    again = unflatten(flatten(params), params)
    assert all(torch.equal(again[name], params[name]) for name in params)
