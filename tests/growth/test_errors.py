"""An alignment error can be examined: where both models stand, what settles it, what else was tried."""

import pickle

import pytest
import torch
from torch import nn

from phiopt.growth import AlignmentError, GrowthMap, grow
from phiopt.growth.errors import UNKNOWN, Side
from phiopt.lift import Pad
from tests.cases import mlp


def refusal(teacher, student, **options):
    with pytest.raises(AlignmentError) as caught:
        GrowthMap.between(teacher, student, **options)
    error = caught.value
    assert error.problem in str(error)
    assert error.remedy
    assert str(error).endswith(error.remedy)
    return error


class Block(nn.Module):
    def __init__(self, width, activation, bias=True, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(2, width, 3, bias=bias)
        self.act = activation
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.act(self.conv(x)).mean((2, 3)))


IMAGE = torch.zeros(2, 2, 5, 5)


def test_other_operations_are_named_with_both_modules_and_shapes():
    error = refusal(Block(4, nn.ReLU()), Block(6, nn.Tanh()), inputs=IMAGE)
    assert str(error).startswith("Teacher and student compute different things at relu")
    assert (error.teacher.module, error.student.module) == ("act", "act")
    assert (error.teacher.node.name, error.student.node.name) == ("relu", "tanh")
    assert error.teacher.shapes == ((2, 4, 3, 3),)
    assert error.student.shapes == ((2, 6, 3, 3),)
    assert "'act' of the teacher" in str(error)
    assert "'act' of the student" in str(error)
    assert "correspondence=" in error.remedy


def test_an_option_that_counts_coordinates_is_named_likewise():
    class Strided(nn.Module):
        def __init__(self, name, stride):
            super().__init__()
            self.add_module(name, nn.Conv2d(2, 4, 1, stride=stride))

        def forward(self, x):
            return next(self.children())(x).mean((2, 3))

    error = refusal(Strided("old", 1), Strided("new", 2), inputs=torch.zeros(2, 2, 1, 1))
    assert (error.teacher.module, error.student.module) == ("old", "new")
    assert "stride=[1, 1] in the teacher" in error.problem
    assert error.remedy == "Give the student the teacher's stride"
    assert error.teacher.node.arguments["stride"] == [1, 1]


def test_a_smaller_student_is_named_at_its_layer():
    error = refusal(mlp(4, 8, 3), mlp(4, 6, 3))
    assert (error.teacher.module, error.student.module) == ("0", "0")
    assert error.student.shapes == ((4, 6),)  # the weight as the product reads it
    assert "smaller than its teacher" in error.problem


def test_where_one_model_goes_on_alone():
    error = refusal(nn.Sequential(*mlp(4, 8, 3), nn.Softmax(1)), mlp(4, 8, 3))
    assert error.teacher.node.name == "_softmax"
    assert error.teacher.module == "3"
    assert error.student.module == "2"
    assert "the teacher alone goes on, with _softmax" in error.problem


def test_an_operation_of_one_model_leaves_the_other_side_empty():
    error = AlignmentError.at(None, None, "nothing is known")
    assert (error.teacher, error.student) == (UNKNOWN, UNKNOWN)
    assert str(error).startswith("Teacher and student compute different things: nothing is known.")

    class Sharpened(nn.Module):
        def __init__(self, more):
            super().__init__()
            self.first, self.head, self.more = nn.Linear(4, 4), nn.Linear(4, 3), more

        def forward(self, x):
            x = self.first(x)
            return self.head(x + x.softmax(-1) if self.more else x)

    error = refusal(Sharpened(False), Sharpened(True))
    assert error.teacher.node is None
    assert error.student.node.name == "add"
    assert "of the student" in str(error)
    assert "of the teacher" not in str(error)


def test_a_gone_parameter_and_a_tied_one_are_named():
    teacher, student = Block(4, nn.ReLU()), Block(6, nn.ReLU(), bias=False)
    nn.init.ones_(teacher.conv.bias)
    error = refusal(teacher, student, inputs=IMAGE)
    assert error.teacher == Side("conv", ((4,),))

    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    error = refusal(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), tied)
    assert error.student.module == "0"
    assert error.teacher.shapes == error.student.shapes == ((4, 4),)


def test_recurrent_layers_keep_what_was_found_first():
    class Net(nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.memory, self.head = nn.GRU(3, 4, layers, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.memory(x)[0][:, -1])

    error = refusal(Net(1), Net(2), inputs=torch.zeros(2, 3, 3))
    assert (error.teacher.module, error.student.module) == ("memory", "memory")
    assert isinstance(error.alternatives[0], AlignmentError)


def test_the_other_ways_to_pair_are_kept():
    """A student of larger images is tried at the teacher's size too. It differs at both."""

    def net(activation):
        layers = nn.Conv2d(1, 2, 3, padding=1), activation, nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(2, 3))

    image = torch.zeros(2, 1, 6, 6)
    error = refusal(net(nn.ReLU()), net(nn.Tanh()), inputs=image, lift=Pad((8, 8)))
    assert error.alternatives
    assert all(isinstance(other, AlignmentError) for other in error.alternatives)
    assert len({str(error), *map(str, error.alternatives)}) == 1 + len(error.alternatives)


def test_a_departure_on_numbers_has_both_sides():
    class Shift(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.by = by

        def forward(self, x):
            return x + self.by

    teacher, student = (nn.Sequential(nn.Linear(4, n), Shift(1.0), nn.Linear(n, 3)) for n in (4, 6))
    growth = GrowthMap.between(teacher, student)
    student[1].by = 2.0
    with pytest.raises(AlignmentError, match="does not keep the function") as caught:
        grow(teacher, student, "zero-out", map=growth)
    assert caught.value.teacher.module == caught.value.student.module == "1"
    assert caught.value.student.node.name == "add"


def test_it_can_be_sent_to_another_process():
    error = refusal(Block(4, nn.ReLU()), Block(6, nn.Tanh()), inputs=IMAGE)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.student.module == "act"
    assert again.student.node.name == "tanh"
    assert again.remedy == error.remedy
