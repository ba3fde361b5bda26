"""Labels that are no class: those that a loss leaves out, such as -100 and 255."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phiopt import OuterLoss, TorchOpt, check, criteria, grow, initialize, learn
from phiopt.bilevel.search import Mirror
from phiopt.objective import student_loss
from tests.cases import mlp, randn

FEW = TorchOpt(steps=2)
LAMBDAS = (0.4, 0.3, 0.3, 0.0)
CLASSES = [0, 2, 4]
X = randn(12, 4, seed=3)
LABELS = torch.arange(12) % 3


class Pixels(nn.Module):
    """Logits ``(batch, classes, 4)`` of four positions."""

    def __init__(self, width, classes):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(1, width, 1), nn.Tanh(), nn.Conv1d(width, classes, 1)
        ).double()

    def forward(self, x):
        return self.net(x[:, None])


def leaving_out(mark):
    def loss(outputs, targets):
        losses = cross_entropy(outputs, targets, reduction="none", ignore_index=mark)
        return losses.reshape(len(targets), -1).mean(1)

    return loss


def void(labels, mark):
    return labels.clone().index_fill_(0, torch.tensor([1, 5]), mark)


def positions(mark):
    y = torch.arange(48).view(12, 4) % 3
    y[:, 0] = mark
    return y


@pytest.mark.parametrize(
    ("mark", "kind"),
    [
        (255, "vectors"),
        (-100, "pixels"),
        pytest.param(-100, "vectors", marks=pytest.mark.slow),
        pytest.param(255, "pixels", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"restrict_classes": True},
        {"classes": CLASSES},
        {"classes": CLASSES, "restrict_classes": True},
    ],
)
def test_a_loss_of_the_users_own_gets_them(mark, kind, options):
    vectors = kind == "vectors"
    teacher, student = (
        mlp(4, w, c, seed=w) if vectors else Pixels(w, c) for w, c in ((3, 3), (5, 5))
    )
    y = void(LABELS, mark) if vectors else positions(mark)
    loss = leaving_out(mark)
    solution = initialize(teacher, student, LAMBDAS, (X, y), loss=loss, solver=FEW, **options)
    kept = y != mark
    classes = torch.tensor(options.get("classes", [0, 1, 2]))
    outputs = solution.student(X).detach()
    if "restrict_classes" in options:
        outputs, classes = outputs[:, classes], torch.arange(3)
    places = torch.where(kept, classes[y.clamp(0, 2)], mark)
    assert solution.terms["task"] == pytest.approx(float(loss(outputs, places).mean()), rel=1e-6)


@pytest.mark.parametrize("label", [3, 4])
def test_a_mark_that_is_a_class_of_the_students_is_refused(label):
    models = mlp(4, 3, 3), mlp(4, 5, 5)
    data = X, void(LABELS, label)
    with pytest.raises(ValueError, match=rf"data: label {label}, must lie in 0 \.\.\. 2.*least 5"):
        initialize(*models, LAMBDAS, data, loss=leaving_out(label), classes=CLASSES, solver=FEW)


@pytest.mark.parametrize("mark", [-100, 255])
@pytest.mark.parametrize(
    "work",
    [
        lambda data: initialize(mlp(4, 3, 3), mlp(4, 5, 5), LAMBDAS, data),
        lambda data: initialize(mlp(4, 3, 3), mlp(4, 5, 5), LAMBDAS, data, classes=CLASSES),
        lambda data: criteria.accuracy(mlp(4, 5, 5), data),
        lambda data: criteria.evaluate(mlp(4, 5, 5), data),
        lambda data: check(mlp(4, 5, 5), data),
        lambda data: learn(
            mlp(4, 3, 3),
            mlp(4, 5, 5),
            (X, LABELS),
            OuterLoss(data),
            solver=FEW,
            search=Mirror(budget=1),
        ),
    ],
    ids=["initialize", "classes", "accuracy", "evaluate", "check", "learn"],
)
def test_cross_entropy_refuses_them_and_names_the_remedy(work, mark):
    with pytest.raises(ValueError, match=r"labels from .* must lie in 0 \.\.\. .*give loss="):
        work((X, void(LABELS, mark)))


def test_a_later_batch_is_checked_too():
    batches = torch.utils.data.DataLoader(list(zip(X, void(LABELS, -100), strict=True)), 1)
    with pytest.raises(ValueError, match=r"labels from -100 to -100, .*give loss="):
        initialize(mlp(4, 3, 3), mlp(4, 5, 5), LAMBDAS, batches, solver=FEW)


def test_targets_without_any_label_are_named():
    data = X, torch.zeros(12, 0, dtype=torch.long)
    for work in (criteria.accuracy, check):
        with pytest.raises(ValueError, match=r"data: targets of shape \(\d+, 0\) hold no label"):
            work(Empty(), data)


class Empty(nn.Module):
    """Logits of no position."""

    def __init__(self):
        super().__init__()
        self.net = mlp(4, 3)

    def forward(self, x):
        return self.net(x)[..., None][..., :0]


def test_relabelling_moves_classes_and_nothing_else():
    seen = []

    def loss(outputs, targets):
        seen.append(targets)
        return outputs.sum(1)

    made = student_loss(loss, torch.tensor(CLASSES), 1, restrict=False)
    made(torch.zeros(6, 5), torch.tensor([2, -100, 0, 255, 1, -1]))
    assert seen[0].tolist() == [4, -100, 0, 255, 2, -1]


def test_growth_needs_no_labels():
    assert grow(mlp(4, 3, 3), mlp(4, 5, 5), classes=CLASSES) is not None
