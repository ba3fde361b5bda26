"""Models are run to be followed, and are left as they were."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from phiopt._modules import state_of
from phiopt.growth import GrowthMap, grow
from tests.growth.nets import Wired, check_injective, state


def test_models_are_left_as_they_were():
    teacher, student = Wired(["residual"], 4, 4, 2).train(), Wired(["residual"], 8, 4, 2).eval()
    before = copy.deepcopy(state(teacher)), copy.deepcopy(state(student))
    growth = GrowthMap.between(teacher, student)
    embedded = growth.embed(state(teacher), into=state(student))
    embedded["head.weight"].zero_()
    for module, old in zip((teacher, student), before, strict=True):
        assert all(torch.equal(v, old[n]) for n, v in state_of(module).items())
    assert teacher.training
    assert teacher.blocks[0].norm.training
    assert not student.training


def test_control_flow_that_needs_values_is_traced_with_values():
    class Branching(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.a, self.b = nn.Linear(4, width), nn.Linear(width, 3)

        def forward(self, x):
            h = self.a(x)
            return self.b(F.relu(h) if bool((x == x).all()) else h)

    teacher, student = Branching(3), Branching(5)
    check_injective(GrowthMap.between(teacher, student, inputs=torch.ones(2, 4)), teacher, student)


class Auxiliary(nn.Module):
    """A head that evaluation mode leaves out, and an activation kept for whoever asks."""

    def __init__(self, width, aux=True):
        super().__init__()
        self.body, self.head = nn.Linear(4, width), nn.Linear(width, 3)
        if aux:
            self.aux = nn.Linear(width, 3)

        self.tables = {}

    def forward(self, x):
        if len(x) not in self.tables:
            self.tables[len(x)] = torch.ones(len(x), 1)
            self.register_buffer("table", torch.ones(1), persistent=False)
        self.kept = self.body(x * self.tables[len(x)]).relu()
        return self.head(self.kept)


def test_a_head_that_evaluation_leaves_out_grows_with_the_teachers_coordinates_first():
    teacher, student = Auxiliary(5), Auxiliary(8)
    check_injective(GrowthMap.between(teacher, student), teacher, student)
    grown = grow(teacher, student, "net2wider")
    assert torch.equal(grown.aux.weight[:, :5], teacher.aux.weight)


def test_a_head_that_the_student_lacks_is_left_out_with_a_warning():
    teacher, student = Auxiliary(5), Auxiliary(8, aux=False)
    with pytest.warns(UserWarning, match=r"aux\.weight, aux\.bias: not used"):
        grown = grow(teacher, student, "zero-out")
    x = torch.randn(2, 4)
    assert torch.allclose(grown(x), teacher(x), atol=1e-6)


def test_what_a_forward_pass_keeps_as_an_attribute_is_put_back_and_may_be_copied():
    teacher, student = Auxiliary(5), Auxiliary(8)
    x = torch.randn(2, 4)
    kept = [(model(x), model.kept)[1] for model in (teacher, student)]
    grown = grow(teacher, student, "zero-out")
    assert teacher.kept is kept[0]
    assert student.kept is kept[1]
    assert not grown.kept.requires_grad


def test_tables_that_a_forward_pass_fills_are_put_back():
    teacher, student = Auxiliary(5), Auxiliary(8)
    GrowthMap.between(teacher, student, inputs=torch.zeros(2, 4))
    for model in (teacher, student):
        assert not model.tables
        assert not dict(model.named_buffers())
        assert model(torch.zeros(2, 4)).device.type == "cpu"
