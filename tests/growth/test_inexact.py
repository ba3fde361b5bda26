"""Where the student computes another function than its teacher, or picks other units, the map says so."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phiopt.growth import GrowthMap, compare, grow
from tests.growth.nets import randomised


class Applied(nn.Module):
    """A function of the units, and a head that reads what it makes."""

    def __init__(self, function, width: int, made: int) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, width), nn.Linear(made, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.first(x)))


def grown(teacher, student, fill="zero-out"):
    teacher, student = randomised(teacher.double(), 0), randomised(student.double(), 1)
    inputs = torch.zeros(2, 4, dtype=torch.float64)
    growth = GrowthMap.between(teacher, student, inputs=inputs)
    return compare(
        teacher, grow(teacher, student, fill, map=growth), growth
    ), growth.inexact_reasons


@pytest.mark.parametrize(
    ("old", "new", "remark"),
    [
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2), "negative_slope=0.1 in the teacher but 0.2"),
        (nn.GELU(), nn.GELU(approximate="tanh"), "approximate=none in the teacher but tanh"),
        (lambda x: x.clamp(0, 1), lambda x: x.clamp(0, 2), "max=1 in the teacher but 2"),
        (lambda x: x**2, lambda x: x**3, "exponent=2 in the teacher but 3"),
        (lambda x: x + 0.1, lambda x: x + 0.2, "other=0.1 in the teacher but 0.2"),
        (nn.BatchNorm1d(4), nn.BatchNorm1d(6, eps=0.1), "eps=1e-05 in the teacher but 0.1"),
    ],
)
def test_another_option_is_another_function(old, new, remark):
    change, remarks = grown(Applied(old, 4, 4), Applied(new, 6, 6))
    assert not change.exact
    assert any(remark in x for x in remarks)


def test_options_that_change_no_output_are_not_remarked():
    old, new = nn.BatchNorm1d(4), nn.BatchNorm1d(6, momentum=0.5)
    change, remarks = grown(Applied(old, 4, 4), Applied(new, 6, 6))
    assert change.exact
    assert not remarks


@pytest.mark.parametrize(
    ("pick", "made"),
    [
        (lambda x: x[:, torch.arange(x.shape[1] - 1, -1, -1)], (4, 6)),
        (lambda x: x.index_select(1, torch.arange(x.shape[1] - 1, -1, -1)), (4, 6)),
        (
            lambda x: (x[:, :, None] * x[:, None])[:, *torch.triu_indices(*x.shape[1:] * 2, 1)],
            (6, 15),
        ),
    ],
    ids=["index", "index_select", "upper triangle"],
)
def test_units_picked_by_an_index_are_remarked(pick, made):
    change, remarks = grown(Applied(pick, 4, made[0]), Applied(pick, 6, made[1]))
    assert not change.exact
    assert any("over a widened axis" in x for x in remarks)


@pytest.mark.parametrize("fill", ["zero-out", "net2wider", "vv-zz"])
def test_the_last_unit_of_the_teacher_is_the_last_of_the_student(fill):
    def gated(x):
        return F.silu(x) * x[:, -1, None]

    change, remarks = grown(Applied(gated, 4, 4), Applied(gated, 6, 6), fill)
    assert change.exact
    assert not remarks


def test_a_unit_that_cannot_sit_where_it_is_picked_is_remarked():
    def picked(place):
        return lambda x: x[:, place, None]

    change, remarks = grown(Applied(picked(3), 4, 1), Applied(picked(1), 6, 1))
    assert not change.exact
    assert any("coordinate 3 in the teacher but 1 in the student" in x for x in remarks)


def test_rows_bounded_in_norm_grow_by_zeros():
    class Tokens(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(7, width, max_norm=1.0), nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.table(x).mean(1))

    teacher, student = randomised(Tokens(4)), Tokens(6)
    growth = GrowthMap.between(teacher, student, inputs=torch.arange(6).view(2, 3))
    assert any("table: max_norm over a row that grows" in line for line in growth.inexact_reasons)
    assert compare(teacher, grow(teacher, student, "zero", map=growth), growth).exact


@pytest.mark.parametrize(("old", "new", "said"), [((4, 6), (8, 6), True), ((4, 6), (4, 8), False)])
def test_weights_standardised_over_columns_that_grow_are_remarked(old, new, said):
    """The mean and variance of a row are those of all its columns, new ones too. More rows change nothing."""

    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            rows = self.weight.reshape(1, len(self.weight), -1)
            weight = F.batch_norm(rows, None, None, training=True).reshape_as(self.weight)
            return F.conv2d(x, weight, self.bias)

    def net(inner: int, outer: int) -> nn.Module:
        convolutions = nn.Conv2d(3, inner, 1), Standardised(inner, outer, 3)
        return nn.Sequential(
            *convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(4 * outer, 2)
        ).double()

    x = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    teacher, student = randomised(net(*old), 0), randomised(net(*new), 1)
    growth = GrowthMap.between(teacher, student, inputs=x)
    student = grow(teacher, student, "zero-out", map=growth)
    assert any("weight standardisation" in r for r in growth.inexact_reasons) == said
    assert compare(teacher, student, growth, inputs=x + 1).exact != said


def test_fewer_and_wider_groups_are_remarked_and_as_many_as_fit_are_kept():
    def net(width, groups):
        return nn.Sequential(
            nn.Conv2d(3, width, 1),
            nn.Conv2d(width, width, 3, groups=groups),
            nn.Conv2d(width, 4, 1),
        )

    teacher, student = (randomised(net(*form), i) for i, form in enumerate([(12, 3), (16, 2)]))
    teacher[2].weight.data[:, 8:] = 0  # the third group, for which there is no group, is not read
    growth = GrowthMap.between(teacher, student, inputs=torch.zeros(2, 3, 8, 8))
    assert growth.inexact_reasons == (
        "1: 3 groups of 4 channels in the teacher but 2 of 8 in the student; only 2 of them read their own channels",
    )
    for fill in ("zero-out", "net2wider"):
        out = grow(teacher, student, fill, map=growth)
        assert compare(teacher, out, growth, inputs=torch.randn(2, 3, 8, 8)).exact


def test_the_older_name_of_the_reasons():
    growth = GrowthMap.between(nn.Linear(3, 2), nn.Linear(3, 4))
    assert growth.remarks == growth.inexact_reasons
