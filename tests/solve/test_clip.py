import pytest
import torch
import torchopt

from phiopt.solve import clipped
from tests.cases import randn


@pytest.mark.parametrize("size", [0.0, 0.1, 30.0])
def test_a_gradient_is_shortened_to_the_norm_and_else_left(size):
    gradient = {"a": size * randn(3, seed=0), "b": size * randn(2, seed=1)}
    w = {name: torch.zeros_like(value) for name, value in gradient.items()}
    ours, theirs = clipped(torchopt.sgd(1.0), 0.5), torchopt.clip.clip_grad_norm(0.5)
    found = ours.update(gradient, ours.init(w), params=w, inplace=False)[0]
    wanted = theirs.update(gradient, theirs.init(w), params=w, inplace=False)[0]
    for name in w:
        torch.testing.assert_close(-found[name], wanted[name], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("size", [0.0, 0.1, 30.0])
def test_the_factor_is_differentiated(size):
    optimizer = clipped(torchopt.sgd(1.0), 0.5)

    def moved(g):
        w = {"w": torch.zeros_like(g)}
        return optimizer.update({"w": g}, optimizer.init(w), params=w, inplace=False)[0]["w"]

    assert torch.autograd.gradcheck(moved, (size * randn(3, seed=0)).requires_grad_())


def test_a_norm_that_is_none_is_refused():
    with pytest.raises(ValueError, match="max_norm"):
        clipped(torchopt.sgd(1.0), 0.0)
