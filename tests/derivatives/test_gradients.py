"""Which gradients are called wrong, on functions whose derivatives are known."""

import pytest
import torch

from phiopt.derivatives.gradients import mismatch
from tests.cases import randn


def rounded(x):
    """Rounded, with the gradient of the identity."""
    return x + (x.round() - x).detach()


WRONG = {
    "detached factor": lambda w: (w * w.detach()).sum(),
    "detached addend": lambda w: (w + w.square().detach()).sum(),
    "scaled input": lambda w: (3 * w - 1.5 * w.detach()).sum(),
    "straight-through rounding": lambda w: rounded(w).sum(),
    "no gradient at all": lambda w: w.square().detach().sum() + 0 * w.sum(),
}
RIGHT = {
    "polynomial": lambda w: (w**3 - w).sum(),
    "kinks": lambda w: w.abs().sum() + torch.relu(w - 0.3).sum(),
    "jumps": lambda w: w.round().sum() + w.sum(),
    "exponential": lambda w: (30 * w).exp().sum(),
    "waves far shorter than the difference": lambda w: (1e9 * w).sin().sum(),
    "waves of a large power": lambda w: ((8 + w).exp() ** 2).sin().sum(),
    "kinks far closer than the difference": lambda w: (1e9 * w).sin().abs().sum(),
}


@pytest.mark.parametrize("function", WRONG.values(), ids=WRONG)
def test_a_wrong_gradient_is_seen(function):
    assert mismatch(lambda p: function(p["w"]), {"w": randn(12, seed=1)}) is not None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("function", RIGHT.values(), ids=RIGHT)
def test_a_right_gradient_is_not_called_wrong(function, seed):
    assert mismatch(lambda p: function(p["w"]), {"w": randn(12, seed=seed)}) is None


def test_a_loss_that_rounds_to_zero_has_no_wrong_gradient():
    """log(1 + e⁻⁵⁰) is 0 in float64, and its slope is not; a value of zero with a slope of one is still wrong."""
    params = {"w": torch.full((3,), 50.0, dtype=torch.float64)}
    far = {"w": torch.full((3,), 55.0, dtype=torch.float64)}
    assert float((-far["w"]).exp().add(1).log().sum()) == 0
    assert mismatch(lambda w: (-w["w"]).exp().add(1).log().sum(), far) is None
    assert mismatch(lambda w: (w["w"] - w["w"].detach()).sum(), params) is not None
