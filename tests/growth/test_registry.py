"""Fills from outside: what is registered, and what it makes, is checked by name."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import phiopt
from phiopt.growth import register_fill
from phiopt.growth.registry import FILLS
from tests.cases import mlp

MODELS = mlp(4, 3, 3, seed=1), mlp(4, 5, 4, seed=2)


@pytest.fixture
def made():
    """A fill that makes what it is told, for one test."""
    result = {}
    register_fill("told")(lambda start: result["make"](start))
    yield result
    del FILLS["told"]


def test_no_function_is_no_fill():
    with pytest.raises(TypeError, match=r"fill: got 3, .* must be a callable"):
        register_fill("three")(3)
    assert "three" not in FILLS


def test_a_fill_may_be_registered_again(made):
    register_fill("told")(lambda start: start.map.embed(start.teacher, into=start.student))
    assert phiopt.grow(*MODELS, "told") is not None


BAD = {
    "no dictionary": (lambda start: 3, TypeError, "fill='told' made: got 3, must be a dictionary"),
    "no tensors": (lambda start: dict.fromkeys(start.student, 3), TypeError, "must be a Tensor"),
    "nothing": (lambda start: {}, ValueError, "lacks '0.bias'"),
    "more": (lambda start: start.student | {"more": torch.zeros(2)}, ValueError, "has 'more'"),
    "another shape": (
        lambda start: start.student | {"0.bias": torch.zeros(2)},
        ValueError,
        r"made '0.bias' of shape \(2,\), must be \(5,\)",
    ),
    "NaN": (
        lambda start: start.student | {"0.bias": torch.full((5,), torch.nan)},
        ValueError,
        "made NaN in '0.bias'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_student_is_refused(made, name):
    made["make"], kind, words = BAD[name]
    with pytest.raises(kind, match=words):
        phiopt.grow(*MODELS, "told")


class Two(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.left, self.right, self.head = (
            nn.Linear(4, width),
            nn.Linear(4, width),
            nn.Linear(width, 3),
        )

    def forward(self, left, right):
        return self.head(self.left(left) + self.right(right))


def test_inputs_that_the_models_do_not_take_are_refused_with_what_to_do():
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    for inputs, message in (
        (None, "teacher: .* takes left, right; inputs is one tensor, must be a tuple or a mapping"),
        (x, "teacher: .* takes left, right; inputs is one tensor, must be a tuple or a mapping"),
        (
            (x, x, x),
            "inputs: got 0, 1, 2, must be a Tensor or as many as are taken; teacher: .* left, right",
        ),
        ({"left": x, "wrong": x}, "inputs: got left, wrong, must be .*'right'"),
        (
            {"left": x, "right": x, "wrong": x},
            "inputs: got left, right, wrong, .* argument 'wrong'",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            phiopt.GrowthMap.between(Two(4), Two(6), inputs=inputs)
    with pytest.raises(
        TypeError, match=r"data: got 3 parts, .* are one part, \(\(a, b\), targets\)"
    ):
        phiopt.initialize(Two(4), Two(6), (0.4, 0.3, 0.2, 0.1), (x, x, y))


@pytest.mark.parametrize("named", [False, True])
def test_models_of_several_inputs_grow_and_are_solved_for(named):
    x, z = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    inputs = {"left": x, "right": z} if named else (x, z)
    small, large = Two(4), Two(6)
    grown = phiopt.grow(small, large, "zero-out", inputs=inputs)
    assert torch.allclose(grown(x, z), small(x, z), atol=1e-6)
    data = inputs, torch.arange(8) % 3
    options = {"solver": phiopt.TorchOpt(steps=2), "start": "zero-out", "throw": False}
    solution = phiopt.initialize(small, large, (0.4, 0.3, 0.2, 0.1), data, **options)
    loss = torch.nn.functional.cross_entropy(small(x, z), data[1]).item()
    assert solution.start_terms["task"] == pytest.approx(loss, rel=1e-5)


def test_what_cannot_be_grown_says_what_can_be():
    def stages(*widths):
        layers = [nn.Conv2d(2, widths[0], 3, padding=1), nn.ReLU()]
        for old, new in pairwise(widths):
            layers += [nn.Conv2d(old, new, 3, stride=2, padding=1), nn.ReLU()]
        return nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 3)
        )

    def neighbours(width):
        layers = nn.Conv2d(2, width, 3), nn.LocalResponseNorm(3), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(36 * width, 3))

    inputs = torch.zeros(2, 2, 8, 8)
    with pytest.raises(ValueError, match=r"another resolution.* Add residual blocks, or layers of"):
        phiopt.GrowthMap.between(stages(4, 4), stages(4, 4, 4), inputs=inputs)
    with pytest.raises(ValueError, match=r"LocalResponseNorm .* Keep the size of this axis"):
        phiopt.GrowthMap.between(neighbours(4), neighbours(6), inputs=inputs)
