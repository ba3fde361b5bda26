"""What the check of a grown student on numbers costs: two forward passes of each model, more only on a difference."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from phiopt.growth import AlignmentError, GrowthMap, grow
from tests.growth.nets import Decoder, Tagger, randomised

KEPT = ("zero-out", "net2wider", "vv-zz")
IMAGES = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
PASSES: list[tuple[type, int]] = []


class Counted(nn.Module):
    """A network that notes the batch size of each of its forward passes on values."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        if x.device.type != "meta":
            PASSES.append((type(self), len(x)))
        return self.net(x)


class Teacher(Counted):
    pass


class Student(Counted):
    pass


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.last(F.relu(self.norm(self.conv(x)))))


def residual(width: int, depth: int, classes: int) -> nn.Sequential:
    blocks = [Block(width) for _ in range(depth)]
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    return nn.Sequential(nn.Conv2d(2, width, 3), *blocks, *ends)


def counts(teacher, student, fill, inputs, **options):
    """Forward passes of each model during the growth, after its map is there."""
    teacher, student = Teacher(randomised(teacher)), Student(randomised(student, 1))
    growth = GrowthMap.between(teacher, student, inputs=inputs)
    growth.inexact_reasons = ()
    PASSES.clear()
    try:
        grow(teacher, student, fill, map=growth, inputs=inputs, **options)
    finally:
        passes = [[size for kind, size in PASSES if kind is k] for k in (Teacher, Student)]
        PASSES.clear()
    return passes


@pytest.mark.parametrize("fill", KEPT)
def test_two_forward_passes_of_each_model_verify_a_residual_network(fill):
    passes = counts(residual(4, 2, 3), residual(6, 3, 4), fill, IMAGES)
    assert [len(sizes) for sizes in passes] == [2, 2]
    assert sum(map(sum, passes)) <= 2 * (2 + 5)  # two examples, and five of other sizes


@pytest.mark.parametrize(
    ("fill", "dtype"),
    [
        ("zero-out", torch.float32),
        ("vv-zz", torch.float64),
        pytest.param("zero-out", torch.float64, marks=pytest.mark.slow),
        pytest.param("vv-zz", torch.float32, marks=pytest.mark.slow),
        pytest.param("net2wider", torch.float32, marks=pytest.mark.slow),
        pytest.param("net2wider", torch.float64, marks=pytest.mark.slow),
    ],
)
def test_two_passes_verify_a_decoder_of_tokens_and_a_recurrent_net(fill, dtype):
    tokens = torch.arange(10).view(2, 5)
    for models, inputs in (
        ((Decoder(8, 4, 2, 12), Decoder(16, 8, 4, 20)), tokens),
        ((Tagger(nn.LSTM, 4, 3, 2), Tagger(nn.LSTM, 4, 7, 3)), torch.randn(2, 5, 4, dtype=dtype)),
    ):
        models = [model.to(dtype) for model in models]
        passes = counts(*models, fill, inputs)
        assert [len(sizes) for sizes in passes] == [2, 2]


def test_examples_that_see_each_other_are_taken_size_by_size():
    together = [nn.BatchNorm1d(width, track_running_stats=False) for width in (8, 12)]
    models = [
        nn.Sequential(nn.Linear(4, n.num_features), n, nn.Linear(n.num_features, 3))
        for n in together
    ]
    passes = counts(*models, "zero-out", torch.randn(2, 4))
    assert [sizes[-2:] for sizes in passes] == [[2, 2], [2, 2]]


def test_a_model_that_takes_one_batch_size_alone_is_verified_too():
    class Two(nn.Module):
        def forward(self, x):
            return x.reshape(2, -1)

    models = [nn.Sequential(Two(), nn.Linear(4, width), nn.Linear(width, 3)) for width in (5, 7)]
    passes = counts(*models, "zero-out", torch.randn(2, 4))
    assert [sizes[-2:] for sizes in passes] == [[2, 2], [2, 2]]


def test_no_pass_without_the_check():
    assert counts(residual(4, 1, 3), residual(4, 1, 3), "zero-out", IMAGES, verify=False) == [
        [],
        [],
    ]


def test_a_difference_costs_the_passes_that_name_its_module():
    teacher, student = residual(4, 1, 3), residual(6, 2, 4)
    student[2].norm.eps = 0.1
    student[1].norm.eps = 0.1
    with pytest.raises(AlignmentError, match=r"'net\.1\.norm'"):
        counts(teacher, student, "zero-out", IMAGES)
