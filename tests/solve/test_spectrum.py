from math import isnan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phiopt.objective import Frobenius, Stream
from phiopt.solve.counted import Counted
from phiopt.solve.spectrum import PRODUCTS, MeanHessian, flat, spectrum
from tests.cases import classification, dense_hessian, flatten, generator, randn, unflatten


def symmetric(values, seed=0):
    """A dense matrix with these eigenvalues, as an operator on two named vectors."""
    n = len(values)
    q, _ = torch.linalg.qr(randn(n, n, seed=seed))
    matrix = q @ torch.as_tensor(values, dtype=q.dtype).diag() @ q.T
    like = {"a": torch.zeros(n // 2, 1, dtype=q.dtype), "b": torch.zeros(n - n // 2, dtype=q.dtype)}
    return (lambda v: unflatten(matrix @ flatten(v), like)), like


@given(st.lists(st.integers(-100, 100), min_size=2, max_size=12), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_both_ends_lie_within_the_spectrum_and_near_its_ends(values, seed):
    operator, like = symmetric(values, seed)
    ends = spectrum(operator, like, seed)
    size = max(map(abs, values))
    assert ends.least >= min(values) - 1e-9 * size
    assert ends.largest <= max(values) + 1e-9 * size
    nearest = min(abs(ends.least - value) for value in values)
    assert nearest <= ends.residual + 1e-9 * size


def test_a_small_negative_eigenvalue_below_a_large_spectrum_is_found():
    values = torch.cat([torch.tensor([-0.5]), torch.linspace(0, 1e3, 199)])
    ends = spectrum(*symmetric(values.double()), seed=1)
    assert ends.products <= PRODUCTS
    assert ends.least < -flat(ends, {"a": torch.zeros(1, dtype=torch.float64)})
    assert ends.least == pytest.approx(-0.5, abs=0.6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(6))
def test_one_small_negative_eigenvalue_among_many_alike_is_found(seed, dtype):
    """A random vector hardly holds it: its first product looks as if all were 10."""
    values = torch.full((10_000,), 10.0, dtype=dtype)
    values[7] = -0.05
    like = {"w": torch.zeros_like(values)}
    ends = spectrum(lambda v: {"w": values * v["w"]}, like, seed)
    assert ends.least == pytest.approx(-0.05, rel=1e-2)
    assert ends.least < -flat(ends, like)


def test_the_zero_operator_has_a_zero_spectrum_at_once():
    operator, like = symmetric([0.0] * 6)
    ends = spectrum(operator, like, 0)
    assert (ends.least, ends.largest, ends.products) == (0, 0, 1)


def test_a_product_that_is_not_finite_has_no_spectrum():
    _, like = symmetric([1.0, 2.0, 3.0])
    ends = spectrum(lambda v: {k: x * torch.nan for k, x in v.items()}, like, 0)
    assert isnan(ends.least)
    assert isnan(ends.largest)


def test_the_vector_is_seeded():
    operator, like = symmetric(torch.linspace(-1, 30, 150).tolist())
    first, again, other = (spectrum(operator, like, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("draws", [1, 3])
def test_the_mean_hessian_is_that_of_the_dense_reference(draws):
    objective, params = classification(curvature=Frobenius(probes=1))
    samples = [objective.sample(params, 6, 0, Stream.TRAIN, i) for i in range(draws)]
    counted = Counted(objective)
    hessian = MeanHessian(counted, params, samples)
    dense = sum(dense_hessian(lambda w, s=s: objective.value(w, s), params) for s in samples)
    for seed in range(2):
        vector = {
            name: torch.randn(p.shape, generator=generator(seed), dtype=p.dtype)
            for name, p in params.items()
        }
        expected = dense @ flatten(vector) / draws
        torch.testing.assert_close(flatten(hessian(vector)), expected)
    assert counted.gradient == (1 if draws == 1 else 2 * draws)
    assert counted.hvp == 2 * draws + counted.gradient  # each gradient holds one of its own
