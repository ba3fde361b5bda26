"""The growth map: every coordinate has one place, found by following the computation."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from phiopt import lift as lifts
from phiopt.growth import GrowthMap, grow
from tests.growth.nets import (
    KINDS,
    Attention,
    Tagger,
    Wired,
    check_injective,
    mlp,
    randomised,
    state,
    well_formed,
)


def test_a_plain_net_puts_the_teacher_first():
    growth = GrowthMap.between(mlp(4, 8, 3), mlp(4, 16, 5))
    mask = growth.mask()
    expected = torch.zeros(5, 16, dtype=torch.bool)
    expected[:3, :8] = True
    assert torch.equal(mask["2.weight"], expected)
    assert growth.classes.tolist() == [0, 1, 2]
    assert growth.class_axis == 1


def test_classes_say_where_the_teachers_outputs_sit():
    growth = GrowthMap.between(mlp(4, 8, 3), mlp(4, 16, 5), classes=[4, 0, 2])
    u, w = state(mlp(4, 8, 3)), state(mlp(4, 16, 5))
    head = growth.embed(u, into=w)["2.weight"]
    assert torch.equal(head[[4, 0, 2], :8], u["2.weight"])


@pytest.mark.parametrize(
    "act",
    [
        nn.Mish(inplace=True),
        nn.ELU(inplace=True),
        nn.ReLU6(inplace=True),
        nn.Hardswish(inplace=True),
        nn.Threshold(0.1, 0.0, inplace=True),
        torch.Tensor.abs_,
        torch.ops.aten.gelu_.default,
    ],
    ids=str,
)
def test_what_acts_on_each_coordinate_may_do_so_in_place(act):
    class Net(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.body, self.head = nn.Linear(4, width), nn.Linear(width, 3)

        def forward(self, x):
            return self.head(act(self.body(x)))

    teacher, student = randomised(Net(5)), randomised(Net(8))
    check_injective(GrowthMap.between(teacher, student), teacher, student)
    x = torch.randn(6, 4)
    assert torch.allclose(grow(teacher, student, "zero-out")(x), teacher(x), atol=1e-6)


class EachStep(nn.Module):
    """Logits (batch, steps, classes), after learned positions."""

    def __init__(self, width, classes):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 4, width))
        self.body, self.head = nn.Linear(3, width), nn.Linear(width, classes)

    def forward(self, x):
        return self.head((self.body(x) + self.positions).relu())


@pytest.mark.parametrize("classes", [4, 6])
def test_the_axis_of_the_classes_is_the_heads_whether_it_grew_or_not(classes):
    growth = GrowthMap.between(EachStep(2, 4), EachStep(5, classes), inputs=torch.zeros(2, 4, 3))
    assert growth.class_axis == 2
    image = torch.zeros(2, 3, 4, 4)
    growth = GrowthMap.between(nn.Conv2d(3, 4, 1), nn.Conv2d(3, classes, 1), inputs=image)
    assert growth.class_axis == 1


def test_flattened_images_map_columns_by_channel_row_and_column():
    def net(channels, size):
        return nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(channels * (size // 2) ** 2, 3),
        )

    teacher, student = net(2, 8), net(4, 12)
    growth = GrowthMap.between(
        teacher, student, inputs=torch.zeros(1, 1, 8, 8), lift=lifts.Pad((12, 12), align="center")
    )
    columns = growth.mask()["3.weight"][0].reshape(4, 6, 6)
    expected = torch.zeros(4, 6, 6, dtype=torch.bool)
    expected[:2, 1:5, 1:5] = True  # two pixels of padding are one position after pooling
    assert torch.equal(columns, expected)
    check_injective(growth, teacher, student)


def test_gates_of_recurrent_nets_grow_each_in_its_block():
    growth = GrowthMap.between(Tagger(nn.LSTM, 5, 3, 2), Tagger(nn.LSTM, 5, 4, 2))
    rows = growth.mask()["core.weight_ih_l0"][:, 0]
    assert rows.tolist() == [True, True, True, False] * 4


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.RNN, {"bidirectional": True}),
        (nn.GRU, {"bias": False}),
        (nn.LSTM, {"num_layers": 2}),
        pytest.param(nn.RNN, {"num_layers": 2}, marks=pytest.mark.slow),
        pytest.param(nn.RNN, {"bias": False}, marks=pytest.mark.slow),
        pytest.param(nn.GRU, {"num_layers": 2}, marks=pytest.mark.slow),
        pytest.param(nn.GRU, {"bidirectional": True}, marks=pytest.mark.slow),
        pytest.param(nn.LSTM, {"bidirectional": True}, marks=pytest.mark.slow),
        pytest.param(nn.LSTM, {"bias": False}, marks=pytest.mark.slow),
    ],
)
def test_recurrent_nets(kind, options):
    teacher, student = Tagger(kind, 5, 3, 2, **options), Tagger(kind, 5, 7, 3, **options)
    check_injective(GrowthMap.between(teacher, student), teacher, student)


def test_recurrent_nets_that_read_longer_sequences_of_wider_rows():
    teacher, student = Tagger(nn.LSTM, 6, 3, 2), Tagger(nn.LSTM, 8, 5, 3)
    growth = GrowthMap.between(
        teacher, student, inputs=torch.zeros(2, 6, 6), lift=lambda x: F.pad(x, (0, 2, 0, 2))
    )
    check_injective(growth, teacher, student)
    assert growth.mask()["core.weight_ih_l0"][0].tolist() == [True] * 6 + [False] * 2
    assert "followed at the teacher's size [6, 8]" in str(growth)


def test_projected_lstms():
    teacher, student = Tagger(nn.LSTM, 5, 6, 2, proj_size=3), Tagger(nn.LSTM, 5, 9, 2, proj_size=5)
    check_injective(GrowthMap.between(teacher, student), teacher, student)


def test_heads_and_packed_projections_of_attention():
    teacher, student = Attention(8, 2, 12, 3), Attention(16, 4, 20, 4)
    growth = GrowthMap.between(teacher, student, inputs=torch.zeros(2, 4, 6))
    rows = growth.mask()["qkv.weight"][:, 0].reshape(3, 4, 4)
    assert rows[:, :2].all()
    assert not rows[:, 2:].any()
    check_injective(growth, teacher, student)


def test_tied_weights_appear_once():
    class Tied(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.embed = nn.Embedding(11, width)
            self.mix = nn.Linear(width, width)
            self.out = nn.Linear(width, 11)
            self.out.weight = self.embed.weight

        def forward(self, tokens):
            return self.out(torch.tanh(self.mix(self.embed(tokens))))

    teacher, student = Tied(4), Tied(6)
    growth = GrowthMap.between(teacher, student)
    assert "out.weight" not in growth.placements
    check_injective(growth, teacher, student)


def test_parameters_used_bare_and_buffers():
    class Bare(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, width))
            self.scale = nn.Parameter(torch.randn(width))
            self.register_buffer("shift", torch.randn(width))
            self.norm = nn.BatchNorm1d(width)
            self.v = nn.Parameter(torch.randn(width, 2))

        def forward(self, x):
            h = self.norm(x.reshape(len(x), 4) @ self.w * self.scale + self.shift)
            return torch.einsum("bw,wc->bc", h.relu(), self.v)

    teacher, student = randomised(Bare(3)), Bare(5)
    growth = GrowthMap.between(teacher, student, inputs=torch.zeros(2, 4))
    assert {"norm.running_mean", "norm.num_batches_tracked", "shift"} <= growth.placements.keys()
    check_injective(growth, teacher, student)


def test_convolutions_in_every_dimension_and_transposed():
    for d, (conv, transposed) in {
        1: (nn.Conv1d, nn.ConvTranspose1d),
        2: (nn.Conv2d, nn.ConvTranspose2d),
        3: (nn.Conv3d, nn.ConvTranspose3d),
    }.items():

        def net(c, g, conv=conv, transposed=transposed):
            return nn.Sequential(
                conv(2, c, 3, padding=1),
                nn.ReLU(),
                transposed(c, c, 2, stride=2, groups=g),
                nn.ReLU(),
                conv(c, 3, 1),
            )

        for groups in (1, 2):
            teacher, student = net(4, groups), net(8, groups)
            growth = GrowthMap.between(teacher, student, inputs=torch.zeros(1, 2, *[4] * d))
            check_injective(growth, teacher, student)


def test_larger_kernels_hold_the_teachers_in_the_middle():
    teacher, student = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 5, padding=2)
    mask = GrowthMap.between(teacher, student).mask()["weight"][0, 0]
    assert mask[1:4, 1:4].all()
    assert mask.sum() == 9


@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    width=st.sampled_from([4, 8]),
    factor=st.sampled_from([1, 2, 3]),
    inner=st.integers(2, 4),
    more=st.integers(0, 3),
    classes=st.integers(2, 4),
    flatten=st.booleans(),
)
def test_random_wirings_have_an_injective_map(kinds, width, factor, inner, more, classes, flatten):
    kinds = well_formed(kinds)
    teacher = Wired(kinds, width, 2 * inner, classes, flatten=flatten)
    student = Wired(kinds, factor * width, 2 * (inner + more), classes + 1, flatten=flatten)
    growth = GrowthMap.between(teacher, student, inputs=torch.zeros(1, 1, 8, 8))
    check_injective(growth, randomised(teacher), student)
