"""What a user says of which modules belong together is honoured, or refused by name before anything is derived."""

import pytest
import torch
from torch import Tensor, nn

from phiopt.growth import AlignmentError, GrowthMap, compare, grow
from tests.growth.nets import randomised


class Block(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Stack(nn.Module):
    """Blocks in the order in which they are registered, or in a given one."""

    def __init__(self, depth: int, order: list[int] | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(6, 3)
        self.order = order or list(range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for i in self.order:
            x = self.blocks[i](x)
        return self.head(x)


def between(small, large, said):
    return GrowthMap.between(
        small.double(), large.double(), inputs=torch.zeros(2, 6).double(), correspondence=said
    )


@pytest.mark.parametrize(
    ("small", "large", "said", "expected"),
    [
        ((1,), (3,), {"blocks.0": "blocks.2"}, {0: 2}),
        ((2,), (3,), {"blocks.1": "blocks.2"}, {0: 0, 1: 2}),
        ((2,), (4,), {"blocks.0": "blocks.1", "blocks.1": "blocks.3"}, {0: 1, 1: 3}),
        ((2,), (2,), {"blocks.0": "blocks.0"}, {0: 0, 1: 1}),
        ((2,), (3,), {"blocks": "blocks"}, {0: 0, 1: 1}),
        ((2,), (3,), {"": "", "blocks.1": "blocks.2"}, {0: 0, 1: 2}),
        ((2,), (2, [1, 0]), {"blocks.0": "blocks.1", "blocks.1": "blocks.0"}, {0: 1, 1: 0}),
        ((2,), (3,), {"blocks.1.up": "blocks.2.up"}, {0: 0, 1: 2}),
    ],
)
def test_what_is_possible_is_honoured(small, large, said, expected):
    teacher, student = randomised(Stack(*small), 0), randomised(Stack(*large), 1)
    growth = between(teacher, student, said)
    assert {
        int(k.split(".")[1]): int(p.student.split(".")[1])
        for k, p in growth.placements.items()
        if k.endswith("up.bias")
    } == expected
    assert compare(teacher, grow(teacher, student, "zero-out", map=growth), growth).exact


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"blocks.0": "blocks.9"}, r"the student has no module 'blocks.9'; did you mean 'blocks"),
        ({"nothing": "head"}, r"the teacher has no module 'nothing'; it has 'blocks', "),
        ({"heat": "head"}, r"the teacher has no module 'heat'; did you mean 'head'\?"),
        ({"blocks.0": "blocks.1", "blocks.1": "blocks.0"}, r"'blocks.0' -> 'blocks.1' .* cross"),
        ({"blocks.0": "blocks.1", "blocks.1": "blocks.1"}, r"both said to be 'blocks.1'"),
        ({"blocks.0": "blocks.0", "blocks.0.up": "blocks.1.up"}, r"contradict each other"),
        ({"blocks.0.up": "blocks.0.up", "blocks": "head"}, r"contradict each other"),
    ],
)
def test_the_impossible_and_the_misspelt_are_refused_by_name(depth, said, message):
    with pytest.raises(ValueError, match=message):
        between(Stack(2), Stack(depth), said)


@pytest.mark.parametrize(
    "said", [{"blocks.0": "blocks.1"}, {"head": "blocks.0"}, {"blocks.0.norm": "blocks.0.up"}]
)
def test_modules_that_cannot_be_paired_are_refused_with_what_was_said(said):
    with pytest.raises(AlignmentError, match=r"under correspondence=\{'"):
        between(Stack(2), Stack(2), said)


@pytest.mark.parametrize("said", [["blocks.0"], "blocks.0", {0: 1}, {"blocks.0": None}, 3])
def test_only_a_mapping_of_names_says_what_belongs_together(said):
    with pytest.raises(TypeError, match=r"correspondence.* must be a mapping"):
        between(Stack(1), Stack(2), said)


def test_names_are_checked_before_the_models_run():
    class Loud(Stack):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("the model ran")

    with pytest.raises(ValueError, match="no module 'block'"):
        between(Loud(1), Loud(2), {"block": "blocks.0"})


def test_a_shared_module_answers_to_both_its_names():
    class Shared(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first = nn.Linear(width, width)
            self.second = self.first
            self.head = nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(x).tanh()).tanh())

    growth = between(Shared(6), Shared(6), {"second": "first"})
    assert growth.placements["first.weight"].student == "first.weight"
    with pytest.raises(ValueError, match=r"'second' is the teacher's 'first', which is said to be"):
        between(Shared(6), Shared(6), {"first": "first", "second": "head"})


def test_a_module_that_never_runs_is_no_counterpart():
    teacher, student = Stack(1), Stack(1)
    student.idle = nn.Linear(6, 3)
    with pytest.raises(AlignmentError, match="the student's 'idle' computes nothing"):
        between(teacher, student, {"head": "idle"})


def test_a_weight_that_the_root_module_reads_is_where_it_is_said_to_be():
    class Direct(nn.Module):
        def __init__(self, *names: str) -> None:
            super().__init__()
            self.names = names
            for name in names:
                setattr(self, name, nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Tensor:
            for name in self.names:
                x = x @ getattr(self, name).weight + getattr(self, name).bias
            return x

    for said in ({"a": "b"}, {"b": "a"}):
        with pytest.raises(AlignmentError, match="would sit in the student's"):
            between(Direct("a", "b"), Direct("a", "b"), said)
    growth = between(Direct("a", "b"), Direct("c", "d"), {"a": "c", "b": "d"})
    assert growth.placements["b.weight"].student == "d.weight"


def test_the_teacher_may_be_a_part_of_the_student():
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Stack(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    growth = between(Stack(2), Wrapped(), {"": "inner"})
    assert growth.placements["blocks.1.up.bias"].student == "inner.blocks.1.up.bias"
