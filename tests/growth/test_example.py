"""Inputs that are tried where none are given, and errors of the user's code that come once, which answer nothing."""

import pytest
import torch
from torch import nn

from phiopt.growth import GrowthMap, grow
from phiopt.growth.example import UnsteadyError, steady
from tests.cases import mlp, randn


class Once:
    """Raises at one call of those on real values."""

    def __init__(self, when):
        self.when, self.calls, self.error = when, 0, ValueError("now and then")

    def __call__(self, x):
        if x.device.type != "meta":
            self.calls += 1
            if self.calls == self.when:
                raise self.error
        return x


class Failing(nn.Module):
    """All copies count together."""

    def __init__(self, net, fault):
        super().__init__()
        self.net = net
        self.faults = {"fault": fault}

    def __deepcopy__(self, memo):
        return Failing(mlp(3, 5, 2, seed=1), self.faults["fault"])

    def forward(self, x):
        return self.net(self.faults["fault"](x))


def causes(error):
    while error is not None:
        yield error
        error = error.__cause__


def test_an_error_that_comes_again_is_a_refusal_and_one_that_does_not_is_told():
    def fails():
        raise ValueError("always")

    assert steady("f", lambda: 3) == 3
    with pytest.raises(ValueError, match="always"):
        steady("f", fails)
    fault = Once(1)
    with pytest.raises(UnsteadyError, match=r"f: raised ValueError \(now and then\)") as message:
        steady("f", lambda: fault(torch.zeros(1)))
    assert message.value.__cause__ is fault.error


@pytest.mark.parametrize("when", range(1, 9))
@pytest.mark.parametrize("where", ["lift", "teacher"])
def test_what_a_lift_or_a_model_raises_once_reaches_the_user(where, when):
    fault, inputs = Once(when), randn(6, 3, seed=2)
    teacher, student = mlp(3, 5, 2, seed=1), mlp(3, 8, 2, seed=3)
    if where == "teacher":
        teacher = Failing(teacher, fault)
    lift = fault if where == "lift" else None
    raised = None
    try:
        grow(teacher, student, "net2wider", lift=lift, inputs=inputs)
    except Exception as error:
        raised = error
    assert fault.error in causes(raised) if fault.calls >= when else raised is None


class Vision(nn.Module):
    """A vision transformer has an ``embed_dim`` and parameters of its own: no layer that reads features."""

    def __init__(self, channels):
        super().__init__()
        self.embed_dim = 8
        self.token = nn.Parameter(torch.randn(8))
        self.patches, self.head = nn.Conv2d(channels, 8, 4, stride=4), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.patches(x).flatten(2).mean(2) + self.token)


def test_channels_of_a_model_with_an_embed_dim_are_those_of_its_first_layer():
    torch.manual_seed(0)
    teacher, student = Vision(1), Vision(3)
    x = torch.randn(2, 1, 8, 8)
    growth = GrowthMap.between(teacher, student, inputs=x)
    grown = grow(teacher, student, "zero-out", map=growth)
    torch.testing.assert_close(grown(growth.lift(x)), teacher(x))
