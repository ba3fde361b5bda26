import pytest
import torch
from torch.func import grad

from phiopt.objective import Spectral
from phiopt.objective.probes import draw_probes
from phiopt.objective.spectral import lanczos
from tests.cases import classification, dense_hessian, generator, plain_loss, randn


def setting():
    objective, params = classification()
    x, y = objective.data.example
    return (lambda w: plain_loss(w, x, y)), params


def test_value_and_gradient_are_those_of_the_dense_hessian():
    loss, params = setting()
    term = Spectral(iterations=30)
    probes = draw_probes(params, 1, generator())

    def densely(w):
        return torch.linalg.eigvalsh(dense_hessian(loss, w)).abs().max().square()

    value, curvature = term(loss, params, probes)
    torch.testing.assert_close(value, loss(params))
    torch.testing.assert_close(curvature, densely(params), rtol=1e-9, atol=0)
    gradient = grad(lambda w: term(loss, w, probes)[1])(params)
    torch.testing.assert_close(gradient, grad(densely)(params), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("iterations", [1, 4, 5, 12])
def test_lanczos_finds_the_largest_absolute_eigenvalue(sign, iterations):
    """Exactly once the space is full, and no harm beyond; a lower bound before."""
    spectrum = sign * torch.tensor([3.0, -1.0, 0.5, 0.1, 0.0], dtype=torch.float64)
    basis = torch.linalg.qr(randn(5, 5))[0]
    matrix = basis @ torch.diag(spectrum) @ basis.T
    v = lanczos(lambda p: {"v": matrix @ p["v"]}, {"v": randn(5, seed=1)}, iterations)["v"]
    torch.testing.assert_close(v.norm(), torch.tensor(1.0, dtype=torch.float64))
    quotient = (v @ matrix @ v).abs()
    if iterations < 4:
        assert quotient < 3 - 1e-6
    elif iterations > 4:
        assert quotient == pytest.approx(3, abs=1e-12)


def test_a_zero_matrix_has_the_zero_vector_or_any():
    v = lanczos(lambda p: {"v": 0 * p["v"]}, {"v": randn(5)}, 3)["v"]
    assert v.isfinite().all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_product_that_is_not_finite_is_passed_on(value):
    """Solvers roll back from NaN; an exception of ``eigh`` would end them."""
    found = lanczos(lambda v: {"w": v["w"] * value}, {"w": torch.ones(3)}, 3)
    assert found["w"].isnan().all()


def test_lanczos_needs_fewer_products_than_power_iteration():
    loss, params = setting()
    top = torch.linalg.eigvalsh(dense_hessian(loss, params)).abs().max().square()
    probes = draw_probes(params, 1, generator(3))
    found = Spectral(iterations=6)(loss, params, probes)[1]
    matrix, v = dense_hessian(loss, params), torch.cat([p[0].flatten() for p in probes.values()])
    for _ in range(6):
        v = matrix @ v / (matrix @ v).norm()
    by_power = (matrix @ v).square().sum()
    assert (top - found) < 0.5 * (top - by_power)


def test_products_are_counted_and_bad_arguments_named():
    assert Spectral(iterations=8).products == 9
    with pytest.raises(ValueError, match="iterations: got -1"):
        Spectral(iterations=-1)
