"""Students trained together against students trained in turn."""

import pytest
import torch
from torch import nn

from experiments import train
from experiments.ensemble import Ensemble, Loop, students
from experiments.models import CNN, LSTM, MLP, built
from experiments.rivals.augmentation import Augmentation
from experiments.rivals.distillation import Distillation
from experiments.train import CROSS_ENTROPY, Recipe, tune
from phiopt import Corruption
from tests.experiments.cases import made_up

NETWORKS = {
    "mlp": lambda: MLP(64, (7, 5), 10),
    "cnn": lambda: CNN(1, 8, (3, 4), 5, 10),
    "lstm": lambda: LSTM(8, 6, 10),
}
RATES = (1e-3, 1e-2)
DATA = made_up(70, 0, size=8)


def model(network):
    return built(NETWORKS[network], 0).double()


def doubled(data):
    return data._replace(x=data.x.double())


@pytest.mark.parametrize("network", NETWORKS)
def test_an_ensemble_gives_the_views_and_curves_of_the_loop(network, monkeypatch):
    recipe, data = Recipe(40, 16, RATES), doubled(DATA)
    views = []
    for kind in (Loop, Ensemble):
        monkeypatch.setattr(train, "students", kind)
        views.append(tune(model(network), data, data, recipe, seed=0, spent=9.5))
    for theirs, ours in zip(*views, strict=True):
        assert ours.learning_rate == theirs.learning_rate
        assert ours.curve == [pytest.approx(point) for point in theirs.curve]
        assert not ours.model.training
        for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
            torch.testing.assert_close(a, b)
    # The student of the first view was kept while the training went on.
    weights = [view.model.head.weight for view in views[1]]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("loss", ["distillation", "augmentation"])
def test_the_losses_of_the_rivals_can_be_trained_together(loss, monkeypatch):
    losses = {
        "distillation": Distillation(built(NETWORKS["mlp"], 1).double().eval()),
        "augmentation": Augmentation(Corruption(0.3)),
    }
    data = doubled(DATA)
    ends = []
    for kind in (Loop, Ensemble):
        monkeypatch.setattr(train, "students", kind)
        recipe = Recipe(20, 16, RATES)
        views = tune(model("mlp"), data, data, recipe, seed=0, loss=losses[loss])
        ends.append(views.equal_epochs.model.head.weight)
    torch.testing.assert_close(*ends)


def test_a_student_that_diverges_does_not_touch_the_others(monkeypatch):
    data, recipe = doubled(DATA), Recipe(20, 16, (1e300, 1e-2))
    ends = []
    for kind in (Loop, Ensemble):
        monkeypatch.setattr(train, "students", kind)
        chosen = tune(model("mlp"), data, data, recipe, seed=0).equal_gradients
        assert chosen.learning_rate == 1e-2
        ends.append(chosen.model.head.weight)
    torch.testing.assert_close(*ends)


def test_the_model_is_left_as_it_was():
    given = model("mlp")
    before = given.head.weight.clone()
    for kind in (Loop, Ensemble):
        trained = kind(given, RATES)
        trained.step(CROSS_ENTROPY, (DATA.x.double(), DATA.y))
        assert torch.equal(given.head.weight, before)
        assert not torch.equal(trained.student(1).head.weight, before)


def test_together_on_a_gpu_where_training_writes_to_no_buffer():
    assert isinstance(students(model("mlp"), RATES), Loop)
    on_gpu = {"device": torch.device("cuda")}

    class There(nn.Linear):
        def parameters(self, recurse=True):
            return iter([type("", (), on_gpu)()])

    class Normed(There):
        def buffers(self, recurse=True):
            return iter([torch.zeros(1)])

    kinds = []
    for kind in (There, Normed):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("experiments.ensemble.Ensemble", lambda *_: "together")
            patch.setattr("experiments.ensemble.Loop", lambda *_: "in turn")
            kinds.append(students(kind(2, 2), RATES))
    assert kinds == ["together", "in turn"]
