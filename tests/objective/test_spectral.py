import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad

from phiopt.objective import Spectral
from phiopt.objective.probes import draw_probes
from tests.cases import (
    dense_hessian,
    flatten,
    generator,
    mlp,
    parameters,
    plain_setting,
    randn,
)


def densely(loss):
    return lambda w: torch.linalg.eigvalsh(dense_hessian(loss, w)).abs().max().square()


def test_value_and_gradient_are_those_of_the_dense_hessian():
    loss, params = plain_setting()
    term = Spectral(iterations=30)
    probes = draw_probes(params, 1, generator())
    value, curvature = term(loss, params, probes)
    torch.testing.assert_close(value, loss(params))
    torch.testing.assert_close(curvature, densely(loss)(params), rtol=1e-9, atol=0)
    gradient = grad(lambda w: term(loss, w, probes)[1])(params)
    torch.testing.assert_close(gradient, grad(densely(loss))(params), rtol=1e-6, atol=1e-9)


def of_net(net, shape, classes=3, scale=1.0):
    x, y = randn(7, *shape, seed=5), torch.arange(7) % classes
    params = {name: scale * p for name, p in parameters(net).items()}
    return (lambda w: F.cross_entropy(functional_call(net, w, (x,)), y)), params


def convolutions():
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(randn(*p.shape, seed=i) / p.shape[-1] ** 0.5)
    return net


def quadratic(w, near=0.0):
    """Its Hessian at 0 has the eigenvalues −2, 1, .5 and 2 − ``near``, if that is given."""
    a, b, c = w["a"], w["b"], w["c"]
    top = (2 - near) * c.square() if near else 0 * c
    sizes = (1 + a) ** 2 * (-2 * a.square() + top) + b[0].square() + 0.5 * b[1].square()
    return (sizes.sum() + (1 + b.sum() + c.sum()) ** 3 / 60) / 2


def of_quadratic(near):
    params = {n: torch.zeros(k, dtype=torch.float64) for n, k in (("a", 1), ("b", 2), ("c", 1))}
    return (lambda w: quadratic(w, near)), params


DIRECTION = randn(9, seed=3)
LOSSES = {
    "tanh": of_net(mlp(4, 6, 3), (4,)),
    "tanh of small weights": of_net(
        mlp(4, 6, 3), (4,), scale=0.1
    ),  # its first eigenvalue is negative
    "three layers": of_net(mlp(3, 4, 4, 3, seed=1), (3,)),
    "relu": of_net(mlp(4, 8, 3, activation=nn.ReLU), (4,)),
    "convolutions": of_net(convolutions(), (1, 3, 3)),
    "two parameters": (
        lambda w: (w["w"][0] * w["w"][1]).sin() + w["w"][0] ** 2,
        {"w": randn(2)},
    ),
    "one parameter": (lambda w: w["w"].sin().sum(), {"w": randn(1)}),
    "rank one": (lambda w: (w["w"] * DIRECTION).sum().sin(), {"w": randn(9)}),
    "negative": of_quadratic(0.0),
    "next to the other end": of_quadratic(0.01),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(2))
def test_by_default_they_are_right_for_every_net(name, seed):
    loss, params = LOSSES[name]
    ended = []
    term = Spectral().reporting(ended.append)
    probes = term.draw(params, generator(seed))
    expected = densely(loss)(params)
    torch.testing.assert_close(term(loss, params, probes)[1], expected, rtol=1e-9, atol=0)
    gradient = flatten(grad(lambda w: term(loss, w, probes)[1])(params))
    reference = flatten(grad(densely(loss))(params))
    assert (gradient - reference).norm() < 1e-5 * reference.norm()
    assert [search.unsettled for search in ended] == [0, 0]


def test_few_iterations_are_reported():
    loss, params = LOSSES["three layers"]
    ended = []
    term = Spectral(iterations=4).reporting(ended.append)
    term(loss, params, term.draw(params, generator()))
    assert ended[0].products == 4
    assert ended[0].unsettled == 1
    assert ended[0].error > 1e-3


def test_an_eigenvector_of_two_entries_is_not_missed():
    """Signs are orthogonal to (1, 1, 0, ...) every other time, and Lanczos never leaves their space."""

    def loss(w):
        return ((w["w"][0] + w["w"][1]).square() + 0.3 * (w["w"][0] - w["w"][1]).square()) / 4

    params = {"w": randn(2)}
    for seed in range(8):
        probes = Spectral().draw(params, generator(seed))
        assert Spectral()(loss, params, probes)[1] == pytest.approx(1, abs=1e-9)


def test_lanczos_needs_fewer_products_than_power_iteration():
    loss, params = plain_setting()
    top = torch.linalg.eigvalsh(dense_hessian(loss, params)).abs().max().square()
    probes = draw_probes(params, 1, generator(3))
    actual = Spectral(iterations=6)(loss, params, probes)[1]
    matrix, v = dense_hessian(loss, params), torch.cat([p[0].flatten() for p in probes.values()])
    for _ in range(6):
        v = matrix @ v / (matrix @ v).norm()
    by_power = (matrix @ v).square().sum()
    assert (top - actual) < 0.5 * (top - by_power)


def test_products_are_counted_and_bad_arguments_named():
    assert Spectral(iterations=8).products == 9
    with pytest.raises(ValueError, match="iterations: got -1"):
        Spectral(iterations=-1)
    with pytest.raises(ValueError, match="tol: got 0"):
        Spectral(tol=0)
