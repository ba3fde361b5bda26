"""Experiment 3: what the teacher may see, and the authors' setting."""

import json

import pytest
import torch

from experiments import classes
from tests.experiments.cases import TINY, made_up, performed

IMAGES = made_up(200, 0), made_up(40, 1)


def test_teachers_know_five_classes_and_students_learn_ten():
    for task in classes.tasks(TINY, IMAGES)[:3]:
        splits = task.splits(0)
        taught = task.taught(0, splits)
        assert set(taught.train.y.tolist()) == {0, 1, 2, 3, 4}
        assert set(splits.train.y.tolist()) == set(range(10))
        assert task.phi.restrict_classes
        x = splits.train.x[:2]
        assert (task.teacher()(x).shape, task.student()(x).shape) == ((2, 5), (2, 10))


@pytest.mark.parametrize(("name", "relu"), [("authors", True), ("authors-linear", False)])
def test_the_authors_setting(name, relu):
    (task,) = (task for task in classes.tasks(TINY, IMAGES) if task.name == name)
    widths = [
        [len(p) for p in net().parameters() if p.dim() == 2] for net in (task.teacher, task.student)
    ]
    assert widths == [[128, 64, 32, 10], [128, 128, 32, 10]]
    recipe = task.student_recipe
    assert (recipe.batch_size, recipe.learning_rates) == (256, (1e-4,))
    assert (task.student()(torch.randn(50, 1, 28, 28)) < 0).any() != relu
    # Ten outputs, of which the classes 5 to 9 are never right.
    assert set(task.taught(0, task.splits(0)).train.y.tolist()) == {0, 1, 2, 3, 4}
    assert task.classes is None


@pytest.mark.slow
def test_it_runs_and_says_what_it_did(tmp_path, capsys):
    names = ["mlp", "lstm", "authors"]
    performed(classes.EXPERIMENT, IMAGES, tmp_path, names=names, methods=("scratch", "default"))
    assert "authors' MLP with a ReLU head" in capsys.readouterr().out
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["task"] for entry in log] == names
    assert all(entry["methods"] == ["scratch", "default"] for entry in log)
    assert len(list((tmp_path / "records").iterdir())) == 6


@pytest.mark.slow
def test_other_tasks_can_be_added_to_a_run_and_unknown_ones_are_listed(tmp_path):
    performed(classes.EXPERIMENT, IMAGES, tmp_path, names=["mlp"])
    performed(classes.EXPERIMENT, IMAGES, tmp_path, names=["authors"])
    with pytest.raises(ValueError, match=r"unknown 'gru'; choose from mlp, cnn, lstm, authors"):
        performed(classes.EXPERIMENT, IMAGES, tmp_path, names=["gru"])
