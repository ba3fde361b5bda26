"""Models that do not match are refused, by the place where they part and with what to do."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from phiopt import initialize
from phiopt.growth import AlignmentError, GrowthMap, grow
from tests.growth.nets import mlp


def test_a_smaller_student_is_refused_by_layer_and_axis():
    with pytest.raises(AlignmentError, match=r"smaller than its teacher.*0.weight.* 8 on axis 0"):
        GrowthMap.between(mlp(4, 8, 3), mlp(4, 6, 3))
    with pytest.raises(ValueError, match="smaller"):
        GrowthMap.between(mlp(4, 8, 3), mlp(4, 8, 2))


def test_models_that_part_are_refused_at_the_first_node():
    student = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    with pytest.raises(AlignmentError, match=r"different things at relu.*tanh.*correspondence="):
        GrowthMap.between(mlp(4, 8, 3), student)


@pytest.mark.parametrize("more", [{"num_layers": 2}, {"bidirectional": True}], ids=str)
def test_recurrent_layers_of_another_form_are_refused_by_name(more):
    class Net(nn.Module):
        def __init__(self, width, **options):
            super().__init__()
            self.memory = nn.LSTM(4, width, batch_first=True, **options)
            self.head = nn.Linear(width * (1 + self.memory.bidirectional), 3)

        def forward(self, x):
            return self.head(self.memory(x)[0][:, -1])

    with pytest.raises(AlignmentError, match=r"memory is LSTM with num_layers=1.* must agree"):
        GrowthMap.between(Net(3), Net(5, **more), inputs=torch.zeros(2, 4, 4))


def test_more_experts_and_computed_weights_are_refused_with_what_to_do():
    class Experts(nn.Module):
        def __init__(self, count):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(count))

        def forward(self, x):
            return torch.stack([expert(x) for expert in self.experts], 1).mean(1)

    with pytest.raises(AlignmentError, match=r"2 tensors .* 4 .*experts.* as many"):
        GrowthMap.between(Experts(2), Experts(4))
    small, large = (
        nn.Sequential(nn.Linear(4, n), orthogonal(nn.Linear(n, n)), nn.Linear(n, 3)) for n in (4, 6)
    )
    with pytest.raises(AlignmentError, match=r"a parametrization computes .*remove_parametriz"):
        GrowthMap.between(small, large)


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 5], [0, 0, 1], [-1, 0, 1], [0.0, 1.0, 2.0]])
def test_wrong_classes_are_refused(classes):
    with pytest.raises(ValueError, match="classes="):
        GrowthMap.between(mlp(4, 8, 3), mlp(4, 8, 5), classes=classes)


@pytest.mark.parametrize("classes", ["abc", {0: 1}, [None]])
def test_classes_that_are_no_numbers_are_named(classes):
    with pytest.raises(TypeError, match=r"classes=.* must be integers"):
        GrowthMap.between(mlp(4, 8, 3), mlp(4, 16, 5), classes=classes)


def test_modules_without_parameters_or_no_modules_are_refused():
    with pytest.raises(ValueError, match="student=ReLU has no parameters"):
        GrowthMap.between(mlp(4, 3), nn.ReLU())
    with pytest.raises(TypeError, match=r"teacher: got .* must be an nn.Module"):
        GrowthMap.between(torch.relu, mlp(4, 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_wrapped_and_scripted_modules_are_refused_with_what_to_pass():
    plain = mlp(4, 8, 3)
    wrapped = nn.Sequential(nn.DataParallel(plain))
    with pytest.raises(TypeError, match=r"teacher\.0 is a DataParallel.*pass teacher\.0\.module"):
        GrowthMap.between(wrapped, plain)
    with pytest.raises(TypeError, match=r"student is a TopLevelTracedModule, must be a plain"):
        GrowthMap.between(plain, torch.jit.trace(plain, torch.zeros(1, 4)))


def test_a_weight_that_one_side_computes_is_named():
    normed = nn.Sequential(*mlp(4, 8, 3))
    nn.utils.parametrizations.weight_norm(normed[0])
    with pytest.raises(
        AlignmentError, match=r"the teacher's '0.weight' is computed in the student"
    ):
        GrowthMap.between(mlp(4, 8, 3), normed)
    with pytest.raises(
        AlignmentError, match=r"the student's '0.weight' is computed in the teacher"
    ):
        GrowthMap.between(normed, mlp(4, 8, 3))


def test_inputs_that_the_teacher_refuses_are_named():
    with pytest.raises(ValueError, match=r"teacher's forward pass fails .* \(2, 5\)"):
        GrowthMap.between(mlp(4, 8, 3), mlp(4, 8, 3), inputs=torch.zeros(2, 5))


def test_a_student_that_fails_for_its_own_reason_says_it():
    broken = nn.Sequential(nn.Linear(4, 8), nn.Linear(7, 3))
    with pytest.raises(ValueError, match=r"that the student accepts .*forward pass fails: .*8"):
        GrowthMap.between(mlp(4, 8, 3), broken)


def test_a_lift_must_be_callable_and_keep_the_batch():
    with pytest.raises(TypeError, match="lift: got 3"):
        GrowthMap.between(mlp(4, 3), mlp(5, 3), lift=3)
    with pytest.raises(ValueError, match="must keep batch and rank"):
        GrowthMap.between(mlp(4, 3), mlp(5, 3), lift=lambda x: x.sum())


def test_one_object_cannot_be_both_models():
    model, data = mlp(4, 8, 3), (torch.randn(8, 4), torch.randint(3, (8,)))
    for call in (
        lambda: GrowthMap.between(model, model),
        lambda: grow(model, model),
        lambda: initialize(model, model, (0.5, 0.5, 0, 0), data),
    ):
        with pytest.raises(ValueError, match="student: got the teacher itself"):
            call()
