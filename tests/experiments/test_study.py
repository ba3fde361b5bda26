"""A study end to end on a tiny task: budgets, pairing, and going on after an interruption."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from experiments import demo, measures, study
from experiments.data import Splits, digits
from experiments.methods import METHODS
from experiments.models import MLP
from experiments.records import RunDirectory, load_module
from experiments.task import METHODS as ALL_METHODS
from phiopt import Corruption, criteria
from tests.experiments.cases import CPU
from tests.experiments.tiny import RECIPE, TASK


def run(path, methods=tuple(METHODS), seeds=(0,)):
    return study.run(TASK, methods, seeds, RunDirectory(path, study.settings("test", [TASK])), CPU)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    return path, {record["method"]: record for record in run(path)}


def test_every_method_spends_the_same_budget(finished):
    for method, record in finished[1].items():
        curve = record["curve"]
        assert curve[0]["gradients"] == 0
        assert RECIPE.budget - 1 < curve[-1]["gradients"] <= RECIPE.budget
        assert (record["initialisation_gradients"] > 0) == method.startswith("phi")
        assert (record["solution"] is not None) == method.startswith("phi")


def test_the_equal_epoch_view_trains_everyone_alike(finished):
    for record in finished[1].values():
        longer = record["equal_epochs"]
        assert longer["curve"][0]["gradients"] == 0
        assert longer["curve"][-1]["gradients"] == RECIPE.budget
        assert longer["test"].keys() <= record["test"].keys()
        if not record["initialisation_gradients"]:
            assert longer["learning_rate"] == record["learning_rate"]
            assert longer["curve"] == record["curve"]
            assert longer["test"] == {key: record["test"][key] for key in longer["test"]}
    phi = finished[1]["phi"]
    # φ's own steps are not on this curve: it begins at w1.
    ours, longer = phi["curve"][2], phi["equal_epochs"]["curve"][0]
    assert ours["cross_entropy"] == longer["cross_entropy"]


def test_until_phi_is_solved_one_has_its_start(finished):
    start, end, solved = finished[1]["phi"]["curve"][:3]
    spent = finished[1]["phi"]["initialisation_gradients"]
    assert [point["gradients"] for point in (start, end, solved)] == [0, spent, spent]
    assert start["cross_entropy"] == end["cross_entropy"] != solved["cross_entropy"]
    assert start["accuracy"] == finished[1]["default"]["curve"][0]["accuracy"]


def test_the_measures_beside_the_papers_are_those_of_the_stored_student(finished):
    path, records = finished
    for method in ("default", "phi"):
        student = load_module(TASK.student(), path / "students" / f"tiny-{method}-0.safetensors")
        for name, value in measures.others(student, digits(0).test).items():
            assert records[method]["test"][name] == pytest.approx(value), name


def test_all_four_terms_cost_more_than_three(finished):
    spent = {method: record["initialisation_gradients"] for method, record in finished[1].items()}
    assert spent["phi4"] > spent["phi"] >= 2 * TASK.phi.three_terms.steps


def test_the_record_is_what_the_stored_student_does(finished):
    path, records = finished
    test = digits(0).test
    for method, record in records.items():
        student = load_module(TASK.student(), path / "students" / f"tiny-{method}-0.safetensors")
        assert record["test"]["accuracy"] == criteria.accuracy(student, test)
        assert record["test"]["cross_entropy"] == pytest.approx(
            criteria.cross_entropy(student, test)
        )


def test_a_finished_run_is_read_and_not_made_again(finished, monkeypatch):
    path, records = finished
    monkeypatch.setattr("experiments.task.METHODS", {})
    assert {record["method"]: record for record in run(path)} == records


def test_an_interrupted_run_goes_on_and_ends_with_the_same_records(finished, tmp_path, monkeypatch):
    def interrupted(growth, seed):
        raise KeyboardInterrupt

    methods = ("scratch", "zero", "uniform", "phi")
    with monkeypatch.context() as patch:
        patch.setitem(ALL_METHODS, "uniform", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, methods)
    assert {p.name for p in (tmp_path / "records").iterdir()} == {
        "tiny-scratch-0.json",
        "tiny-zero-0.json",
    }
    timeless = {"seconds"}
    for record in run(tmp_path, methods):
        expected = finished[1][record["method"]]
        assert record.keys() == expected.keys()
        for key in record.keys() - timeless:
            if key != "solution":
                assert record[key] == expected[key], key


def test_what_cannot_be_had_is_left_out_and_noted_and_tried_again(tmp_path, monkeypatch, capsys):
    def refused(growth, seed):
        raise ValueError("no growth exists")

    with monkeypatch.context() as patch:
        patch.setitem(ALL_METHODS, "uniform", refused)
        (record,) = run(tmp_path, methods=("uniform", "default"))
        assert record["method"] == "default"
    assert "uniform left out: no growth exists" in capsys.readouterr().err
    (note,) = (tmp_path / "refusals").iterdir()
    assert json.loads(note.read_text())["reason"] == "ValueError: no growth exists"
    assert len(run(tmp_path, methods=("uniform", "default"))) == 2
    assert not note.exists()


def test_another_data_set_can_teach_and_other_pixels_be_measured(tmp_path):
    def teach(seed):
        return Splits(*(part.of((2, 7)) for part in digits(seed)))

    seen = {}

    def spy(growth, seed):
        seen.update(data=growth.data, classes=growth.classes, noise=growth.noise)
        return METHODS["scratch"](growth, seed)

    task = replace(
        TASK,
        teacher=partial(MLP, 64, (6,), 2),
        teacher_splits=teach,
        classes=(2, 7),
        methods={"spy": spy},
        pixels=(-3.0, -2.0),
        criterion=Corruption(1.0, low=-3.0, high=-2.0),
    )
    (record,) = study.run(task, ("spy",), (0,), RunDirectory(tmp_path, {}), CPU)
    assert seen["noise"] == task.criterion
    assert torch.equal(seen["data"].x, teach(0).train.x)
    assert seen["classes"] == (2, 7)
    student = load_module(task.student(), tmp_path / "students" / "tiny-spy-0.safetensors")
    test = digits(0).test
    curve = criteria.corruption_curve(student, test, low=-3.0, high=-2.0)
    assert record["corruption"]["accuracy"] == pytest.approx(curve.accuracy)
    beside = measures.others(student, test, low=-3.0, high=-2.0)
    assert {name: record["test"][name] for name in beside} == pytest.approx(beside)
    noise = criteria.robustness(student, test, task.criterion)
    assert record["test"]["robustness"] == pytest.approx(noise)


def test_a_changed_task_is_refused_in_the_same_directory(finished):
    changed = replace(TASK, theta=0.1)
    with pytest.raises(ValueError, match=r"settings\. tiny\.theta: 0\.05 there, 0\.1 now\."):
        RunDirectory(finished[0], study.settings("test", [changed]))


def test_prediction_variance_needs_two_seeds_and_images_that_neither_was_trained_on(tmp_path):
    records = run(tmp_path, methods=("scratch",), seeds=(0, 1))
    directory = RunDirectory(tmp_path, study.settings("test", [TASK]))
    variance = study.prediction_variance(TASK, records, directory, CPU)
    students = [
        load_module(TASK.student(), directory.student_path("tiny", "scratch", seed))
        for seed in (0, 1)
    ]
    assert variance == {"scratch": criteria.prediction_variance(students, digits(0).test)}
    assert study.prediction_variance(TASK, records[:1], directory, CPU) == {}
    apart = replace(TASK, same_test=False)
    assert study.prediction_variance(apart, records, directory, CPU) == {}


def test_nothing_before_the_final_measures_depends_on_the_test_part(finished, tmp_path):
    def other_test(seed):
        splits = digits(seed)
        return Splits(splits.train, splits.validation, splits.test.take(torch.tensor([0, 1])))

    task = replace(TASK, splits=other_test)
    (record,) = study.run(task, ("default",), (0,), RunDirectory(tmp_path, {}), CPU)
    expected = finished[1]["default"]
    assert record["learning_rate"] == expected["learning_rate"]
    assert record["curve"] == expected["curve"]
    assert record["test"] != expected["test"]


def test_the_demo_is_named_as_its_records_need():
    settings = study.settings("demo", [demo.TASK])
    assert settings["digits"]["classes"] == (0, 1, 2, 3, 4)
    assert "Linear(in_features=64, out_features=32" in settings["digits"]["teacher"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ligo", "gradmax", "robustified", "phi_early"])
def test_what_spends_gradients_waits_at_its_start(tmp_path, method):
    longer = replace(TASK, student_recipe=replace(RECIPE, budget=200))  # LiGO alone spends 100
    (record,) = study.run(longer, (method,), (0,), RunDirectory(tmp_path, {}), CPU)
    spent = record["initialisation_gradients"]
    assert [point["gradients"] for point in record["curve"][:3]] == [0, spent, spent]
    assert spent > 0


def test_seeds_of_one_teacher_differ_in_the_student_alone(tmp_path):
    seen = []

    def spy(growth, seed):
        seen.append((seed, growth.teacher.head.weight, growth.data.x))
        return METHODS["default"](growth, seed)

    task = replace(TASK, one_teacher=True, methods={"spy": spy})
    records = study.run(task, ("spy",), (3, 4), RunDirectory(tmp_path, {}), CPU)
    assert [record["teacher_seed"] for record in records] == [0, 0]
    (one, weight, data), (other, same_weight, same_data) = seen
    assert (one, other) == (3, 4)
    assert torch.equal(weight, same_weight)
    assert torch.equal(data, same_data)
    assert torch.equal(data, TASK.taught(0, digits(0)).train.x)
    students = [
        load_module(task.student(), tmp_path / "students" / f"tiny-spy-{seed}.safetensors")
        for seed in (3, 4)
    ]
    assert not torch.equal(students[0].head.weight, students[1].head.weight)


def test_an_initialisation_can_name_the_rates_of_its_training(tmp_path):
    def fixed(growth, seed):
        return replace(METHODS["default"](growth, seed), learning_rates=(2e-3,))

    task = replace(TASK, methods={"fixed": fixed})
    (record,) = study.run(task, ("fixed",), (0,), RunDirectory(tmp_path, {}), CPU)
    assert record["learning_rate"] == record["equal_epochs"]["learning_rate"] == 2e-3


@pytest.mark.slow
def test_a_teacher_that_diverges_ends_its_seed_alone(tmp_path, monkeypatch, capsys):
    trained = study.trained_teacher
    tried = []

    def sometimes(task, taught, seed, *arguments, **named):
        tried.append(seed)
        if seed == 1:
            raise FloatingPointError("training diverged")
        return trained(task, taught, seed, *arguments, **named)

    monkeypatch.setattr(study, "trained_teacher", sometimes)
    records = run(tmp_path, methods=("scratch", "default"), seeds=(0, 1, 2))
    assert [record["seed"] for record in records] == [0, 0, 2, 2]
    assert tried == [0, 1, 2]
    assert "seed 1: default left out: teacher: training diverged" in capsys.readouterr().err
