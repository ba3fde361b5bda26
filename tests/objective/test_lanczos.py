import pytest
import torch
from torch.func import vmap

from phiopt.objective.lanczos import lanczos
from tests.cases import randn

F64 = torch.float64


def symmetric(eigenvalues, seed=0):
    eigenvalues = torch.as_tensor(eigenvalues, dtype=F64)
    basis = torch.linalg.qr(randn(len(eigenvalues), len(eigenvalues), seed=seed))[0]
    return basis @ torch.diag(eigenvalues) @ basis.T


def search(matrix, start, iterations, tol=1e-6):
    vector, actual = lanczos(lambda p: {"v": matrix @ p["v"]}, {"v": start}, iterations, tol)
    return vector["v"], actual


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("iterations", [1, 4, 5, 12])
def test_lanczos_finds_the_largest_absolute_eigenvalue(sign, iterations):
    """Exactly once the space is full, and no harm beyond; a lower bound before."""
    matrix = symmetric([sign * e for e in (3.0, -1.0, 0.5, 0.1, 0.0)])
    v, result = search(matrix, randn(5, seed=1), iterations, 1e-12)
    torch.testing.assert_close(v.norm(), torch.tensor(1.0, dtype=F64))
    quotient = (v @ matrix @ v).abs()
    if iterations < 4:
        assert quotient < 3 - 1e-6
        assert result.unsettled == 1
    elif iterations > 4:
        assert quotient == pytest.approx(3, abs=1e-12)
        assert result == (5, pytest.approx(0, abs=1e-12), 0)


SPECTRA = {
    "one number": [2.0] * 30,
    "rank one": [-2.0] + [0.0] * 30,
    "two ends": [1.0, *torch.linspace(-0.3, 0.3, 30), -1.02],
    "near the other end": [1.0, *torch.linspace(-0.3, 0.3, 30), -0.999],
    "as far as the other end": [1.0, 0.5, -0.5, -1.0],
    "a small gap": [1.0, 0.999, *torch.linspace(-0.5, 0.5, 60)],
    "fast decay": [(-0.5) ** k for k in range(40)],
    "an edge": torch.linspace(-1, 1.2, 60).tolist(),
    "small numbers": [1e-30, 5e-31, -2e-31, 0.0],
    "one parameter": [-3.0],
    "two parameters": [-3.0, 2.9],
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("seed", range(3))
def test_a_search_that_ends_has_found_the_eigenvector(name, seed):
    eigenvalues = torch.tensor([float(e) for e in SPECTRA[name]], dtype=F64)
    v, result = search(torch.diag(eigenvalues), randn(len(eigenvalues), seed=seed), 100)
    top = eigenvalues.abs().max()
    space = v[eigenvalues.abs() > top * (1 - 1e-9)]
    assert result.unsettled == 0
    assert space.norm() == pytest.approx(1, abs=1e-10)  # the cosine of an angle of 1e-5
    assert (eigenvalues * v).norm() == pytest.approx(float(top), rel=1e-10)


@pytest.mark.parametrize("iterations", [3, 8])
def test_a_search_that_is_cut_short_says_how_far_it_came(iterations):
    eigenvalues = torch.linspace(-1, 1.2, 60, dtype=F64)
    v, result = search(torch.diag(eigenvalues), randn(60), iterations)
    assert result.products == iterations
    assert result.unsettled == 1
    assert result.error >= (1 - v[-1].square()).sqrt()


def test_eigenvalues_that_float32_cannot_tell_apart_are_not_settled():
    eigenvalues = torch.tensor([1.0, 1 - 1e-5, *torch.linspace(-0.5, 0.5, 30)])
    result = search(torch.diag(eigenvalues), randn(32).float(), 100)[1]
    assert result.unsettled == 1
    assert result.products < 100
    assert 1e-3 < result.error < 1


def test_many_under_vmap_are_what_each_is_alone():
    bulk = torch.linspace(-1, 1, 39, dtype=F64).tolist()
    matrices = torch.stack(
        [torch.diag(torch.tensor([*bulk, top], dtype=F64)) for top in (1.01, 1.5, -5.0)]
    )
    starts = randn(3, 40)
    alone = [search(m, s, 30) for m, s in zip(matrices, starts, strict=True)]
    seen = []

    def one(matrix, start):
        vector, result = search(matrix, start, 30)
        seen.append(result)
        return vector

    vectors = vmap(one)(matrices, starts)
    torch.testing.assert_close(vectors, torch.stack([v for v, _ in alone]), rtol=0, atol=1e-12)
    products, errors, unsettled = zip(*(result for _, result in alone), strict=True)
    assert len(set(products)) > 1
    assert 0 < sum(unsettled) < 3
    assert seen == [(max(products), pytest.approx(max(errors)), sum(unsettled))]


def test_a_zero_matrix_has_the_zero_vector():
    v, result = search(torch.zeros(5, 5, dtype=F64), randn(5), 3)
    assert v.tolist() == [0] * 5
    assert result == (1, 0, 0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_product_that_is_not_finite_is_passed_on(value):
    """Solvers roll back from NaN; an exception of ``eigh`` would end them."""
    v, result = search(value * torch.ones(3, 3), torch.ones(3), 3)
    assert v.isnan().all()
    assert result.products == 1
