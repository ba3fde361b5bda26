"""The paper's experiments 1 and 2 end to end, on images made up here and on the real ones."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import basic, demo
from experiments.checks import ROOT_VARIABLE
from experiments.scales import NETWORKS, SCALES
from tests.experiments.cases import TINY, made_up, performed


@pytest.mark.slow
def test_each_network_gets_its_figures_and_tables(tmp_path, capsys):
    images = made_up(200, 0), made_up(40, 1)
    methods = ("scratch", "default")
    performed(basic.EXPERIMENT, images, tmp_path, seeds=(0, 1), methods=methods, figures=True)
    assert "Fashion-MNIST, CNN" in capsys.readouterr().out
    for network in NETWORKS:
        for name in ("learning.svg", "corruption.svg", "curves.csv"):
            assert (tmp_path / f"{network}-{name}").stat().st_size > 0
        records = json.loads((tmp_path / f"{network}.json").read_text())
        cells = {(r["method"], r["seed"]) for r in records}
        assert cells == {(m, s) for m in ("scratch", "default") for s in (0, 1)}


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)
def test_students_are_larger_and_the_budgets_hold_phi(scale):
    for task in basic.tasks(scale, (made_up(40, 0), made_up(2000, 1))):
        teacher, student = task.teacher().state_dict(), task.student().state_dict()
        assert teacher.keys() == student.keys()
        for name, value in teacher.items():
            larger = student[name].shape
            assert all(n <= m for n, m in zip(value.shape, larger, strict=True))
        phi, recipe = task.phi, task.student_recipe
        passes = max(2 * phi.three_terms.steps, 7 * phi.four_terms.steps)
        assert passes * phi.batch_size / recipe.batch_size < recipe.budget / 5


@pytest.mark.slow
@pytest.mark.skipif(ROOT_VARIABLE not in os.environ, reason=f"{ROOT_VARIABLE} names no data root")
def test_phi_and_default_run_on_fashion_mnist(tmp_path):
    images = basic.EXPERIMENT.load(Path(os.environ[ROOT_VARIABLE]), download=False)
    scale = replace(TINY, limit=1280, validation=64, student_budget=500)
    performed(
        basic.EXPERIMENT, images, tmp_path, scale=scale, names=["mlp"], methods=("default", "phi")
    )
    records = json.loads((tmp_path / "mlp.json").read_text())
    assert [record["method"] for record in records] == ["default", "phi"]
    # Ten classes; chance is 0.1.
    assert all(record["test"]["accuracy"] > 0.2 for record in records)
    assert records[1]["solution"]["objective"] < records[1]["solution"]["start_objective"]


@pytest.mark.slow
def test_the_demo_prints_its_tables_and_writes_its_report(tmp_path, capsys):
    demo.run((0,), ("default", "phi"), tmp_path)
    output = capsys.readouterr().out
    assert "mean ± sd over seeds" in output
    assert "as its solver reports it" in output
    assert {"digits-learning.png", "digits-corruption.png", "digits.json", "digits.md"} <= {
        path.name for path in tmp_path.iterdir()
    }
    default, phi = json.loads((tmp_path / "digits.json").read_text())
    for record in (default, phi):
        assert record["test"]["accuracy"] > 0.9
    assert phi["solution"]["objective"] < phi["solution"]["start_objective"]
