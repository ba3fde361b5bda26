import torch
from torch.func import grad, vmap

from phiopt.derivatives import dot, linearise, square_norm
from tests.cases import classification, dense_hessian, flatten, plain_loss, randn, unflatten


def setting():
    objective, params = classification()
    x, y = objective.data.example
    return (lambda w: plain_loss(w, x, y)), params


def test_linearise_agrees_with_the_dense_derivatives():
    loss, params = setting()
    hessian = dense_hessian(loss, params)
    at = linearise(loss, params)
    torch.testing.assert_close(at.value, loss(params))
    torch.testing.assert_close(at.gradient, grad(loss)(params))
    for seed in range(3):  # one linearisation serves many vectors
        v = randn(len(hessian), seed=seed)
        torch.testing.assert_close(flatten(at.hvp(unflatten(v, params))), hessian @ v)


def test_derivative_of_a_product_agrees_with_that_of_the_dense_hessian():
    loss, params = setting()
    v = randn(len(flatten(params)), seed=1)

    def by_products(w):
        return square_norm(linearise(loss, w).hvp(unflatten(v, params)))

    def densely(w):
        return (dense_hessian(loss, w) @ v).square().sum()

    torch.testing.assert_close(grad(by_products)(params), grad(densely)(params))


def test_products_are_the_same_inside_and_outside_of_transforms():
    """Outside autograd itself takes them, also many at once."""
    loss, params = setting()
    vectors = {name: torch.stack([p, 2 * p, p.cos()]) for name, p in params.items()}
    inside = vmap(lambda v: linearise(loss, params).hvp(v))(vectors)
    for context in (torch.no_grad, torch.enable_grad):
        with context():
            outside = vmap(linearise(loss, params).hvp)(vectors)
        for name, value in inside.items():
            torch.testing.assert_close(outside[name], value)
            assert not outside[name].requires_grad


def test_a_recorded_product_can_be_differentiated_by_autograd():
    loss, params = setting()
    v = unflatten(randn(len(flatten(params)), seed=1), params)
    w = {name: p.clone().requires_grad_() for name, p in params.items()}
    square = square_norm(linearise(loss, w).hvp(v))
    slopes = torch.autograd.grad(square, list(w.values()))
    expected = grad(lambda w: square_norm(linearise(loss, w).hvp(v)))(params)
    torch.testing.assert_close(dict(zip(w, slopes, strict=True)), expected)
    along = {name: p.clone().requires_grad_() for name, p in v.items()}
    with torch.no_grad():
        at = linearise(loss, params)
    (slope,) = torch.autograd.grad(dot(at.hvp(along), v), [along["0.weight"]])
    torch.testing.assert_close(slope, at.hvp(v)["0.weight"])


def test_a_linear_function_has_products_of_zero():
    with torch.no_grad():
        at = linearise(lambda w: (2 * w["w"]).sum(), {"w": torch.ones(2)})
    torch.testing.assert_close(at.hvp({"w": torch.ones(2)}), {"w": torch.zeros(2)})


def test_dot_and_norm_go_over_all_entries():
    a, b = (
        {"p": randn(2, 3), "q": randn(4, seed=1)},
        {"q": randn(4, seed=2), "p": randn(2, 3, seed=3)},
    )
    expected = (a["p"] * b["p"]).sum() + (a["q"] * b["q"]).sum()
    torch.testing.assert_close(dot(a, b), expected)
    torch.testing.assert_close(square_norm(a), flatten(a) @ flatten(a))
