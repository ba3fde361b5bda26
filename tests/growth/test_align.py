"""Which block becomes which: by the place in the tree, new ones at the end of a stage; verified on numbers."""

import pytest
import torch
from torch import Tensor, nn

from phiopt.growth import AlignmentError, GrowthMap, compare, grow
from tests.growth.nets import randomised

IMAGE = torch.zeros(2, 3, 16, 16).double()


class Residual(nn.Module):
    """Two convolutions and a shortcut, which is a convolution where the size changes."""

    def __init__(self, old: int, new: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(old, new, 3, stride=stride, padding=1)
        self.second = nn.Conv2d(new, new, 3, padding=1)
        self.shortcut = nn.Conv2d(old, new, 1, stride=stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.second(self.first(x).relu())


class Windows(nn.Module):
    """A block that shifts an image, mixes windows of 2 x 2 and shifts it back, as Swin does."""

    def __init__(self, width: int, shift: int) -> None:
        super().__init__()
        self.shift, self.mix, self.up = shift, nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.permute(0, 2, 3, 1)
        y = x.roll((self.shift, self.shift), (1, 2)).view(n, h // 2, 2, w // 2, 2, c)
        y = self.mix(y.transpose(2, 3).reshape(-1, 4, c)).view(n, h // 2, w // 2, 2, 2, c)
        y = y.transpose(2, 3).reshape(n, h, w, c).roll((-self.shift, -self.shift), (1, 2))
        x = (x + y).reshape(n, h * w, c)
        x = x + self.down(self.up(x).relu())
        return x.reshape(n, h, w, c).permute(0, 3, 1, 2)


class Chunked(nn.Module):
    """Half of the channels go through a branch, and both halves are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width // 2, width // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.cat([a, b + self.conv(b)], 1)


class Stages(nn.Module):
    """Stages of blocks, each a module of its own or all in one list."""

    def __init__(self, widths, depths, flat: bool = False, kind=None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 1)
        stages = []
        for i, (old, new, depth) in enumerate(
            zip(widths[:1] + widths, widths, depths, strict=False)
        ):
            blocks = [Residual(old, new, 1 if i == 0 else 2)]
            blocks += [
                Residual(new, new) if kind is None else kind(new, j) for j in range(depth - 1)
            ]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(b for s in stages for b in s) if flat else nn.ModuleList(stages)
        self.head = nn.Linear(widths[-1], 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


def mapped(teacher, student, **options):
    """The student's module of each of the teacher's; growth keeps the function."""
    teacher, student = randomised(teacher.double(), 0), randomised(student.double(), 1)
    growth = GrowthMap.between(teacher, student, inputs=IMAGE, **options)
    assert not growth.inexact_reasons
    assert compare(teacher, grow(teacher, student, "zero-out", map=growth), growth).exact
    return {
        name.rpartition(".")[0]: place.student.rpartition(".")[0]
        for name, place in growth.placements.items()
    }


def test_new_blocks_come_at_the_end_of_a_stage():
    growth = mapped(Stages([4, 6, 8], [2, 1, 2]), Stages([4, 12, 16], [3, 4, 4]))
    assert all(old == new for old, new in growth.items())


def test_stages_are_told_apart_in_one_list_of_blocks():
    """A stage starts where a block changes the size. Numbers alone would pair other blocks."""
    growth = mapped(
        Stages([4, 4, 4], [2, 2, 2], flat=True), Stages([8, 8, 8], [4, 3, 4], flat=True)
    )
    blocks = {int(k.split(".")[1]): int(v.split(".")[1]) for k, v in growth.items() if "first" in k}
    assert blocks == {0: 0, 1: 1, 2: 4, 3: 5, 4: 7, 5: 8}


@pytest.mark.parametrize(
    "kind", [Windows, lambda width, _: Chunked(width)], ids=["windows", "halves"]
)
def test_coordinates_that_a_new_block_moves_and_moves_back_are_followed(kind):
    growth = mapped(Stages([4, 8], [2, 2], kind=kind), Stages([4, 8], [3, 5], kind=kind))
    assert all(old == new for old, new in growth.items())


def test_a_new_block_that_does_not_move_coordinates_back_is_no_identity():
    class Turned(Windows):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).flip(2)

    teacher, student = (Stages([4], [d], kind=Turned).double() for d in (2, 3))
    growth = GrowthMap.between(teacher, student, inputs=IMAGE)
    assert any("flip is no identity" in reason for reason in growth.inexact_reasons)


def test_a_block_may_become_a_part_of_a_larger_one():
    class Tree(nn.Module):
        def __init__(self, levels: int) -> None:
            super().__init__()
            one = (lambda: Tree(levels - 1)) if levels > 1 else (lambda: Residual(4, 4))
            self.left, self.right = one(), one()

        def forward(self, x: Tensor) -> Tensor:
            return self.right(self.left(x))

    growth = mapped(
        nn.Sequential(nn.Conv2d(3, 4, 1), Tree(1)), nn.Sequential(nn.Conv2d(3, 4, 1), Tree(2))
    )
    assert growth["1.left.first"] == "1.left.left.first"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"stages.1": "stages.1"}, {0: 0, 1: 1}),
        ({"stages.1.*": "stages.1.*"}, {0: 0, 1: 1}),
        ({"stages.*.0": "stages.*.0", "stages.1.1": "stages.1.3"}, {0: 0, 1: 3}),
        ({"stages.1.*": "stages.1.*", "stages.1.1": "stages.1.2"}, {0: 0, 1: 2}),
    ],
)
def test_stages_and_patterns_say_which_block_becomes_which(said, expected):
    growth = mapped(Stages([4, 6], [1, 2]), Stages([4, 6], [2, 4]), correspondence=said)
    assert {old: int(growth[f"stages.1.{old}.first"].split(".")[2]) for old in expected} == expected


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"stages.9.*": "stages.9.*"},
            r"'stages.9.\*' fits no module of the teacher; it has 'stem'",
        ),
        ({"stages.*.*": "stages.*"}, "has 2 stars and .* has 1, must be as many"),
        ({"stages.1.*": "stages.0.*"}, r"the student has no module 'stages.0.1'"),
        ({"stages.*": "stages.*", "stages.0": "stages.1"}, "both said to be 'stages.1'"),
    ],
)
def test_patterns_that_cannot_hold_are_refused(said, message):
    teacher, student = Stages([4, 6], [1, 2]), Stages([4, 6], [1, 4])
    with pytest.raises(ValueError, match=message):
        GrowthMap.between(teacher, student, inputs=IMAGE.float(), correspondence=said)


def test_a_refusal_names_the_innermost_modules_that_differ():
    teacher, student = Stages([4, 6], [1, 3]), Stages([4, 6], [3, 2])
    with pytest.raises(
        AlignmentError, match=r"'stages.1.2' has no counterpart in 'stages.1'"
    ) as caught:
        GrowthMap.between(teacher, student, inputs=IMAGE.float())
    assert caught.value.teacher.module == "stages.1.2.first"
    assert caught.value.student.module.startswith("stages.1.1")


def test_a_larger_student_may_have_fewer_blocks_at_a_stage():
    teacher, student = Stages([4, 6], [1, 3]), Stages([8, 12], [2, 2])
    growth = GrowthMap.between(teacher, student, inputs=IMAGE.float())
    assert growth.inexact_reasons == (
        "stages.1.2: the student has fewer blocks here; this one of the teacher is left out",
    )
    last = [n for n in growth.placements if n.startswith("stages.1.2")]
    assert not last
    assert growth.placements["stages.1.1.first.weight"].student == "stages.1.1.first.weight"
    for name in ("second.weight", "second.bias"):  # with nothing to add, the block is no loss
        teacher.get_parameter(f"stages.1.2.{name}").data.zero_()
    for fill in ("zero-out", "net2wider"):
        grown = grow(teacher, student, fill, map=growth)
        assert compare(teacher, grown, growth, inputs=torch.randn(2, 3, 16, 16)).exact


def test_a_user_says_which_block_is_left_out():
    teacher, student = Stages([4, 6], [1, 3]), Stages([8, 12], [2, 2])
    growth = GrowthMap.between(
        teacher, student, inputs=IMAGE.float(), correspondence={"stages.1.2": "stages.1.1"}
    )
    assert [reason.split(":")[0] for reason in growth.inexact_reasons] == ["stages.1.1"]
    assert growth.placements["stages.1.2.first.weight"].student == "stages.1.1.first.weight"


def test_a_new_branch_that_reads_another_stream_leaves_that_stream_alone():
    """As in HRNet: two streams with blocks of their own, each of which then adds something of the other."""

    class Exchange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.ModuleList(Residual(4, 4) for _ in range(2))
            self.other = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2))

        def forward(self, streams: list[Tensor]) -> list[Tensor]:
            a, b = (block(x) for block, x in zip(self.own, streams, strict=True))
            return [(a + self.other[0](b)).relu(), (b + self.other[1](a)).relu()]

    class Streams(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.stems = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in range(2))
            self.stages = nn.Sequential(*(Exchange() for _ in range(depth)))
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat(self.stages([s(x) for s in self.stems]), 1).mean((2, 3)))

    growth = mapped(Streams(1), Streams(3))
    assert all(old == new for old, new in growth.items())
