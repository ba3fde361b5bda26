import pytest
import torch
from torch.nn.functional import cross_entropy

from phiopt.objective import student_loss
from phiopt.objective.loss import check_labels
from tests.cases import generator, randn

CLASSES = torch.tensor([3, 0, 4])


def labels(*shape):
    return torch.randint(3, shape, generator=generator(1))


def test_all_outputs_with_the_students_own_labels():
    outputs, y = randn(6, 5), labels(6)
    losses = student_loss(None, CLASSES, 1, restrict=False)(outputs, y)
    expected = -outputs.log_softmax(1)[torch.arange(6), CLASSES[y]]
    torch.testing.assert_close(losses, expected)


def test_restricted_to_the_teachers_outputs():
    outputs, y = randn(6, 5), labels(6)
    losses = student_loss(None, CLASSES, 1, restrict=True)(outputs, y)
    torch.testing.assert_close(losses, cross_entropy(outputs[:, [3, 0, 4]], y, reduction="none"))


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_several_positions_to_an_example_are_averaged(axis):
    outputs, y = randn(6, 7, 5), labels(6, 7)
    losses = student_loss(None, CLASSES, axis, restrict=False)(outputs.movedim(-1, axis), y)
    each = cross_entropy(outputs.flatten(0, 1), CLASSES[y].flatten(), reduction="none")
    torch.testing.assert_close(losses, each.view(6, 7).mean(1))


def test_a_given_loss_sees_the_students_labels_but_other_targets_untouched():
    seen = []

    def loss(outputs, targets):
        seen.append(targets)
        return outputs.sum(1)

    made = student_loss(loss, CLASSES, 1, restrict=False)
    y, real = labels(6), randn(6, 5)
    made(randn(6, 5), y)
    made(randn(6, 5), real)
    assert torch.equal(seen[0], CLASSES[y])
    assert seen[1] is real
    assert student_loss(loss, torch.arange(3), 1, restrict=False) is loss


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4), (6, 5, 4, 3)])
def test_labels_of_the_outputs_classes_are_let_through(shape):
    check_labels("data", torch.zeros(shape), labels(6, *shape[2:]))


@pytest.mark.parametrize(
    ("outputs", "targets", "error", "message"),
    [
        ((6, 5), labels(6) + 3, ValueError, r"^data: labels from \d to 5, must lie in 0 \.\.\. 4"),
        ((6, 5), labels(6) - 1, ValueError, "^data: labels from -1"),
        ((6, 5), torch.rand(6), TypeError, "^data: targets are torch.float32"),
        ((6, 7, 5), labels(6, 7), ValueError, r"outputs are \(6, 7, 5\).*the classes on axis 1"),
        ((6, 5), labels(6, 1), ValueError, r"targets are \(6, 1\)"),
        ((6,), labels(6), ValueError, r"outputs are \(6,\)"),
    ],
)
def test_what_cross_entropy_cannot_take_is_refused(outputs, targets, error, message):
    with pytest.raises(error, match=message):
        check_labels("data", torch.zeros(outputs), targets)
