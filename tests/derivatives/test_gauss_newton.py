import torch
from torch.func import grad, jacrev
from torch.nn.functional import cross_entropy

from phiopt.derivatives import gauss_newton
from tests.cases import classification, flatten, plain_loss, plain_mlp, randn, unflatten


def setting():
    objective, params = classification()
    x, y = objective.data.example

    def at(w):
        return gauss_newton(lambda p: plain_mlp(p, x), lambda z: cross_entropy(z, y), w)

    def densely(w):
        """Jᵀ H J over all outputs of the batch."""
        jacobian = jacrev(lambda v: plain_mlp(unflatten(v, params), x).flatten())(flatten(w))
        z = plain_mlp(w, x)
        inner = torch.func.hessian(lambda v: cross_entropy(v.view_as(z), y))(z.flatten())
        return jacobian.T @ inner @ jacobian

    return at, densely, params, (x, y)


def test_products_value_and_gradient_against_the_dense_matrix():
    at, densely, params, (x, y) = setting()
    actual = at(params)
    torch.testing.assert_close(actual.value, plain_loss(params, x, y))
    torch.testing.assert_close(actual.gradient, grad(lambda w: plain_loss(w, x, y))(params))
    for seed in range(2):
        v = randn(len(flatten(params)), seed=seed)
        product = flatten(actual.hvp(unflatten(v, params)))
        torch.testing.assert_close(product, densely(params) @ v)


def test_a_product_is_differentiable():
    at, densely, params, _ = setting()
    v = randn(len(flatten(params)), seed=1)

    def size(w):
        return flatten(at(w).hvp(unflatten(v, params))).square().sum()

    expected = grad(lambda w: (densely(w) @ v).square().sum())(params)
    torch.testing.assert_close(grad(size)(params), expected)
