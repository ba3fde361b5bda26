"""Derivatives of order two to four against fourth-order central differences, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vjp
from torch.nn.utils.parametrizations import weight_norm

from phiopt.derivatives import differentiable
from tests.cases import flatten, parameters, randn, unflatten


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Outputs(nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x):
        return self.recurrent(x)[0]


class SquaredError(nn.Linear):
    def forward(self, x):
        outputs = super().forward(x).tanh()
        return F.mse_loss(outputs, torch.ones_like(outputs))


class Tokens(nn.Embedding):
    def forward(self, x):
        return super().forward(torch.arange(6).view(2, 3))


class Operator(nn.Module):
    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def forward(self, x):
        return self.operator(x)


def normed(norm):
    return nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Linear(6, 3))


FLAT, SEQUENCE = (5, 4), (2, 3, 4)
MODULES = {
    "layer norm": (lambda: normed(nn.LayerNorm(6)), FLAT),
    "batch norm by batch statistics": (
        lambda: normed(nn.BatchNorm1d(6, track_running_stats=False)),
        FLAT,
    ),
    "batch norm by running statistics": (lambda: normed(nn.BatchNorm1d(6)), FLAT),
    "instance norm": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 2, 2), nn.InstanceNorm1d(2, affine=True), nn.Tanh(), nn.Conv1d(2, 2, 2)
        ),
        SEQUENCE,
    ),
    "group norm": (lambda: normed(nn.GroupNorm(2, 6)), FLAT),
    "RMS norm": (lambda: normed(nn.RMSNorm(6)), FLAT),
    "attention": (Attention, SEQUENCE),
    "transformer layer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, activation="gelu"),
        SEQUENCE,
    ),
    "LSTM": (lambda: Outputs(nn.LSTM(4, 3, batch_first=True)), SEQUENCE),
    "GRU": (lambda: Outputs(nn.GRU(4, 3, batch_first=True)), SEQUENCE),
    "RNN": (lambda: Outputs(nn.RNN(4, 3, batch_first=True)), SEQUENCE),
    "weight norm": (lambda: normed(weight_norm(nn.Linear(6, 6))), FLAT),
    "weight norm of another axis": (lambda: normed(weight_norm(nn.Linear(6, 6), dim=1)), FLAT),
    "weight norm of the whole": (lambda: normed(weight_norm(nn.Linear(6, 6), dim=None)), FLAT),
    "layer norm as an operator": (
        lambda: normed(Operator(lambda x: torch.ops.aten.layer_norm.default(x, [6]))),
        FLAT,
    ),
    "hard sigmoid": (  # between its kinks
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Hardsigmoid()),
        FLAT,
    ),
    "squared error": (lambda: SquaredError(4, 3), FLAT),
    "embedding of bounded rows": (lambda: Tokens(7, 4, max_norm=1.2), FLAT),
}


def seeded(build):
    module = build().double().eval()
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(0.7 * randn(*p.shape, seed=i))
    return module


def along(f, direction, h=1e-3):
    """The derivative of ``f`` along a direction by the five-point rule."""

    def derivative(w):
        near = f(w + h * direction) - f(w - h * direction)
        far = f(w + 2 * h * direction) - f(w - 2 * h * direction)
        return (8 * near - far) / (12 * h)

    return derivative


@pytest.mark.parametrize("name", MODULES)
def test_second_to_fourth_derivatives(name):
    build, shape = MODULES[name]
    module, x = seeded(build), randn(*shape, seed=50)
    like = parameters(module)
    w = flatten(like)
    v, r = (d / d.norm() for d in (randn(len(w), seed=51), randn(len(w), seed=52)))

    def loss(w):
        with differentiable():
            outputs = functional_call(module, unflatten(w, like), (x,))
        return outputs.sin().square().mean() + outputs.exp().mean()

    def product(w):
        return vjp(grad(loss), w)[1](v)[0]

    def curvature(w):
        return product(w).square().sum()

    def slope(w):
        return grad(curvature)(w) @ r

    torch.testing.assert_close(product(w), along(grad(loss), v)(w), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(slope(w), along(curvature, r)(w), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(grad(slope)(w) @ v, along(slope, v)(w), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_products_in_float32(kind):
    """mkldnn's kernel, which float32 gets by default, has no second derivative."""
    module, x = Outputs(kind(4, 3, batch_first=True)), randn(*SEQUENCE)
    like = {name: randn(*p.shape, seed=1) for name, p in parameters(module).items()}
    v = {name: randn(*p.shape, seed=2) for name, p in like.items()}

    def product(dtype):
        def loss(params):
            with differentiable():
                return functional_call(module, params, (x.to(dtype),)).sin().sum()

        params, vector = ({n: t.to(dtype) for n, t in d.items()} for d in (like, v))
        with torch.no_grad():
            return flatten(vjp(grad(loss), params)[1](vector)[0])

    low, high = product(torch.float32).double(), product(torch.float64)
    torch.testing.assert_close(low, high, rtol=1e-4, atol=1e-4)


CALLS = {
    "F.layer_norm": lambda x: F.layer_norm(x, x.shape[1:], randn(*x.shape[1:]), eps=1e-3),
    "torch.layer_norm": lambda x: torch.layer_norm(x, x.shape[2:]),
    "F.batch_norm, training": lambda x: F.batch_norm(
        x, None, None, randn(3, seed=1), randn(3, seed=2), training=True
    ),
    "F.batch_norm, evaluation": lambda x: F.batch_norm(
        x, randn(3), randn(3, seed=1).abs(), randn(3, seed=2)
    ),
    "torch.batch_norm": lambda x: torch.batch_norm(
        x, randn(3), None, None, None, True, 0.1, 1e-5, False
    ),
    "F.instance_norm": lambda x: F.instance_norm(x, weight=randn(3), bias=randn(3, seed=1)),
    "F.instance_norm, running": lambda x: F.instance_norm(
        x, randn(3), randn(3, seed=1).abs(), use_input_stats=False
    ),
    "torch.instance_norm": lambda x: torch.instance_norm(
        x, randn(3), None, None, None, True, 0.1, 1e-5, False
    ),
    "F.hardsigmoid": lambda x: F.hardsigmoid(4 * x),
    "F.hardsigmoid, in place": lambda x: (F.hardsigmoid(x.mul_(4), inplace=True), x),
    "F.embedding, bounded": lambda x: F.embedding(
        torch.arange(12).view(3, 4), x.view(-1, 5), 0, max_norm=1.5, norm_type=3.0
    ),
    "F.mse_loss, none": lambda x: F.mse_loss(x, x.flip(0), reduction="none"),
    "F.mse_loss, sum": lambda x: F.mse_loss(x, x.flip(0), reduction="sum"),
    "F.mse_loss, weighted": lambda x: F.mse_loss(x, x.flip(0), weight=x.abs()),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_values_are_those_of_the_kernels(call):
    x = randn(4, 3, 5, 2, seed=3)
    with differentiable():
        composite = call(x.clone())
    torch.testing.assert_close(composite, call(x.clone()), rtol=1e-12, atol=1e-12)


def test_an_error_of_shapes_that_differ_warns_as_ever():
    with differentiable(), pytest.warns(UserWarning, match="target size .* different"):
        F.mse_loss(randn(4, 1), randn(4), reduction="none")


@pytest.mark.parametrize("call", [F.embedding, F.embedding_bag])
def test_bounded_rows_are_shortened_in_the_result_alone(call):
    table = torch.cat([torch.zeros(1, 4), 3 * randn(2, 4).float()]).requires_grad_()
    before = table.detach().clone()
    with differentiable():
        rows = call(torch.tensor([[0], [1], [2]]), table, max_norm=1.0)
    torch.testing.assert_close(rows.view(3, 4).norm(dim=1), torch.tensor([0.0, 1.0, 1.0]))
    assert torch.equal(table, before)
    assert torch.autograd.grad(rows.sum(), table)[0].isfinite().all()


def test_the_third_derivative_of_the_fused_layer_norm_is_wrong():
    """Why the composites exist. When PyTorch mends its kernel this fails, and they can go."""
    x, v = randn(5, 6), randn(5, 6, seed=1)

    def curvature(x):
        return vjp(grad(lambda x: F.layer_norm(x, (6,)).sin().sum()), x)[1](v)[0].square().sum()

    numeric = along(curvature, v)(x)
    fused = (grad(curvature)(x) * v).sum()
    with differentiable():
        composite = (grad(curvature)(x) * v).sum()
    torch.testing.assert_close(composite, numeric, rtol=1e-6, atol=0)
    assert (fused - numeric).abs() > 1e-3 * numeric.abs()


def test_everything_is_as_before_afterwards():
    def switches():
        backends = torch.backends
        return backends.cuda.flash_sdp_enabled(), backends.cudnn.enabled, backends.mkldnn.enabled

    before = switches()
    with differentiable():
        nn.LSTM(2, 2)(torch.zeros(1, 1, 2))
    with pytest.raises(RuntimeError, match="inside"), differentiable():
        raise RuntimeError("inside")
    assert switches() == before
    x = randn(4, 3)
    assert torch.equal(F.layer_norm(x, (3,)), nn.LayerNorm(3, elementwise_affine=False)(x))
    assert type(torch.overrides._get_current_function_mode()) is type(None)
