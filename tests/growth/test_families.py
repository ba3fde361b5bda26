"""Whole families of models, as benchmarks/zoo.py builds them: exact where promised, remarked where not."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer, mobilenet_v2

import phiopt
from benchmarks import zoo
from benchmarks.families import measure
from phiopt._modules import state_of
from phiopt.growth import GrowthMap
from phiopt.growth.registry import PRESERVING as FILLS
from tests.growth.nets import randomised

ROUNDING = 1e-11
"""Relative change of logits in float64 that is rounding; a misplaced coordinate gives 1e-2 and more."""


def cases(expected):
    return [
        pytest.param(f, id=f.name, marks=[pytest.mark.slow] if f.slow else [])
        for f in zoo.FAMILIES
        if f.expected == expected
    ]


def check_places(growth, family):
    """Every coordinate of the teacher has its own place in the student."""
    u, w = ({k: v.detach() for k, v in state_of(m).items()} for m in family.models())
    back, mask = growth.extract(growth.embed(u, into=w)), growth.mask()
    assert back.keys() == u.keys()
    assert all(torch.equal(back[name], u[name]) for name in u)
    assert mask.keys() == w.keys()
    assert sum(int(m.sum()) for m in mask.values()) == sum(v.numel() for v in u.values())


@pytest.mark.parametrize("family", cases("exact"))
def test_every_coordinate_has_its_own_place_and_the_function_is_kept(family):
    actual = measure(family)
    check_places(actual.growth, family)
    assert actual.changes.keys() == set(FILLS)
    assert max(actual.changes.values()) <= ROUNDING, actual


@pytest.mark.parametrize("family", cases("inexact"))
def test_a_function_that_cannot_be_kept_is_remarked(family):
    actual = measure(family)
    check_places(actual.growth, family)
    assert max(actual.changes.values()) > ROUNDING
    assert actual.reasons


@pytest.mark.parametrize("fill", FILLS)
def test_a_batch_norm_that_only_the_student_has_undoes_its_own_statistics(fill):
    def net(*more):
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *more)

    teacher = randomised(net()).eval()
    student = randomised(net(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()), 1).eval()
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    grown = phiopt.grow(teacher, student, fill, inputs=x)
    torch.testing.assert_close(grown(x), teacher(x), rtol=1e-5, atol=1e-5)


def test_two_inputs_are_refused_with_a_reason():
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    with pytest.raises(
        TypeError,
        match=r"^teacher: the forward pass of Transformer takes src, tgt; inputs is one tensor",
    ):
        GrowthMap.between(model, deepcopy(model), inputs=torch.zeros(2, 5, 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        (
            lambda: mobilenet_v2(num_classes=5, width_mult=0.5),
            lambda: mobilenet_v2(num_classes=10),
        ),
        (
            lambda: VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5),
            lambda: VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10),
        ),
    ],
    ids=["MobileNetV2", "ViT"],
)
def test_phi_runs_end_to_end(teacher, student):
    torch.manual_seed(0)
    x, y = torch.rand(8, 3, 32, 32), torch.randint(5, (8,))
    solver = phiopt.TorchOpt(steps=2, batch_size=4)
    lambdas = phiopt.Lambdas(0.25, 0.25, 0.25, 0.25)
    solution = phiopt.initialize(
        teacher().eval(),
        student().eval(),
        lambdas,
        (x, y),
        solver=solver,
        neighbourhood=phiopt.Uniform(0.1),
        throw=False,
    )
    assert solution.stats.steps == 2
    assert solution.objective <= solution.start_objective
    assert all(value.isfinite().all() for value in solution.params.values())
