import pytest
import torch
from torch import nn

from phiopt.objective import LIFT, pure_model
from tests.cases import mlp, parameters, randn


def test_it_is_the_module_on_lifted_inputs():
    net, x = mlp(4, 3, 2), randn(5, 2)
    model = pure_model(net, lambda x: torch.cat([x, x], 1))
    torch.testing.assert_close(model(parameters(net), x), net(torch.cat([x, x], 1)))
    moved = {name: p + 1 for name, p in parameters(net).items()}
    assert not torch.allclose(model(moved, x), model(parameters(net), x))


def test_later_changes_to_the_module_do_not_reach_it():
    net, x = mlp(4, 2), randn(5, 4)
    model = pure_model(net, lambda x: x)
    before = model({}, x)
    with torch.no_grad():
        net[0].bias.add_(1)
    assert torch.equal(model({}, x), before)


def test_evaluation_mode_without_touching_the_module():
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)).double()
    x = randn(5, 4)
    model = pure_model(net, lambda x: x)
    assert torch.equal(model(parameters(net), x), model(parameters(net), x))
    assert net.training
    assert net[0].num_batches_tracked == 0


def test_a_forward_that_works_in_place_does_not_reach_the_data():
    x = randn(5, 4)
    before = x.clone()
    pure_model(nn.ReLU(inplace=True), lambda x: x)({}, x)
    assert torch.equal(x, before)


class Remembering(nn.Linear):
    """Fills a table at its first call, which a transform would leave of no use to the next."""

    def forward(self, x):
        self.table = getattr(self, "table", torch.ones(len(x), 1, dtype=x.dtype))
        return super().forward(x * self.table)


def test_a_forward_that_keeps_what_it_computes_begins_anew_each_time():
    net, x = Remembering(4, 2).double(), randn(5, 4)
    model = pure_model(net, lambda x: x)
    slope = torch.func.grad(lambda w: model(w, x).square().sum())
    first, second = slope(parameters(net)), slope(parameters(net))
    assert torch.equal(first["weight"], second["weight"])
    assert model(parameters(net), x[:3]).shape == (3, 2)


def test_a_lift_that_is_a_module_has_parameters_too():
    net, lift, x = mlp(4, 2), mlp(3, 4, seed=1), randn(5, 3)
    model = pure_model(net, lift)
    torch.testing.assert_close(model(parameters(net), x), net(lift(x)))
    moved = {name: p + 1 for name, p in parameters(lift).items()}
    expected = net(torch.func.functional_call(lift, moved, (x,)))
    torch.testing.assert_close(model({LIFT + n: p for n, p in moved.items()}, x), expected)


def test_outputs_that_are_no_tensor_are_refused():
    model = pure_model(nn.LSTM(4, 2), lambda x: x)
    with pytest.raises(TypeError, match="student: its forward returned tuple"):
        model({}, torch.zeros(3, 1, 4))
