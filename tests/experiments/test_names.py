"""The names that the command line knows without PyTorch are those that the experiments register."""

from importlib import import_module

import pytest

from experiments import ablation, cli, demo, methods, names, task
from experiments.cifar import Images
from experiments.samples import SIZES
from tests.experiments.cases import TINY, made_up

FASHION = made_up(200, 0), made_up(40, 1)
CIFAR = made_up(200, 2, channels=3, size=32), made_up(40, 3, channels=3, size=32)


def test_methods_are_those_of_the_registries():
    assert tuple(task.METHODS) == names.METHODS
    assert tuple(methods.METHODS) == names.PAPER
    assert tuple(demo.TASK.registry) == names.DEMO.methods


def test_every_experiment_has_its_names():
    assert list(names.EXPERIMENTS) == list(cli.EXPERIMENTS)


@pytest.mark.parametrize("name", names.EXPERIMENTS)
def test_tasks_and_methods_are_those_of_the_experiment(name):
    experiment = import_module(f"experiments.{name.replace('-', '_')}").EXPERIMENT
    images = Images(FASHION, CIFAR, "JPEG copies") if name.startswith("cifar") else FASHION
    tasks = tuple(task.name for task in experiment.tasks(TINY, images))
    known = names.EXPERIMENTS[name]
    if name == "samples":  # a scale has fewer
        sizes = tuple(map(str, SIZES))
        assert known.tasks == tuple(
            f"{n}-{s}" for n in ("mlp", "cnn", "lstm") for s in (*sizes, "all")
        )
        assert set(tasks) <= set(known.tasks)
    else:
        assert known.tasks == tasks
    assert known.methods == tuple(experiment.methods or task.METHODS)
    assert known.compared == tuple(experiment.methods or methods.METHODS)


def test_the_ablation_has_its_tasks():
    cases = ablation.cases(["digits"], TINY, None, download=False)
    assert [case.task.name for case in cases] == ["digits"]
    assert names.ABLATIONS[0] == "digits"
