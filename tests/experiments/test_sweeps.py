"""θ, λ, |D2| and the halves: what differs between the things that are compared."""

from dataclasses import astuple, replace

import pytest
import torch

from experiments import basic, classes, halves, lambdas, samples, study, theta, weights
from experiments.methods import Descent, Growth
from experiments.models import built
from experiments.records import RunDirectory
from experiments.task import METHODS
from tests.experiments.cases import CPU, TINY, made_up, performed

IMAGES = made_up(200, 0), made_up(40, 1)


def growth(task):
    data = task.taught(0, task.splits(0)).train
    return Growth(
        built(task.teacher, 0), task.student, data, task.classes, task.theta, task.phi, 128
    )


@pytest.mark.slow
def test_learned_weights_are_paid_for_and_leave_the_curvature_out(tmp_path):
    task = classes.tasks(TINY, IMAGES)[0]
    descent = Descent(4, 1e-3)
    phi = replace(task.phi, batch_size=4, three_terms=descent, four_terms=descent)
    task = replace(task, phi=phi, student_recipe=replace(task.student_recipe, budget=2000))
    directory = RunDirectory(tmp_path, {})
    learned, equal = study.run(task, ("phi-learned", "phi"), (0,), directory, CPU)
    weights = learned["solution"]["lambdas"]
    assert weights[3] == 0
    assert sum(weights) == pytest.approx(1)
    assert weights != equal["solution"]["lambdas"]
    # Every point that was tried has its solve and its steps on D2.
    assert learned["initialisation_gradients"] > 5 * equal["initialisation_gradients"]
    assert learned["curve"][-1]["gradients"] <= 2000


def test_each_theta_bounds_the_new_weights():
    task = theta.tasks(TINY, IMAGES)[0]
    teacher = task.teacher().hidden[0].weight
    for value in theta.THETAS:
        student = task.methods[f"uniform-{value:g}"](growth(task), 0).student
        fresh = student.hidden[0].weight[len(teacher) :]
        assert fresh.min() >= 0
        assert 0.9 * value < fresh.max() <= value


def test_the_terms_are_switched_as_their_names_say(monkeypatch):
    seen = {}

    def solved(growth, seed, chosen, descent):
        seen[current] = (astuple(chosen), descent)

    monkeypatch.setattr(weights, "solve_phi", solved)
    task = lambdas.tasks(TINY, IMAGES)[0]
    for current in list(task.methods)[2:]:
        task.methods[current](growth(task), 0)
    assert len(seen) == 8
    for name, (chosen, descent) in seen.items():
        on = [term for term in (1, 2, 3, 4) if str(term) in name.removeprefix("phi-")]
        assert 2 in on
        expected = [1 / len(on) if term in on else 0 for term in (1, 2, 3, 4)]
        assert list(chosen) == pytest.approx(expected)
        assert descent == (task.phi.four_terms if 4 in on else task.phi.three_terms)


def test_phi_noise_weighs_the_noise_term_most(monkeypatch):
    seen = []
    monkeypatch.setattr(weights, "solve_phi", lambda *arguments: seen.append(arguments))
    given = growth(basic.tasks(TINY, IMAGES)[0])
    METHODS["phi-noise"](given, 3)
    ((solved, seed, given_weights, descent),) = seen
    assert (solved, seed) == (given, 3)
    assert astuple(given_weights) == (0.1, 0.1, 0.8, 0.0)
    assert descent == given.phi.three_terms


def test_fewer_samples_reach_the_student_and_all_the_teacher():
    tasks = {task.name: task for task in samples.tasks(TINY, IMAGES)}
    assert {"mlp-100", "mlp-all", "cnn-100", "lstm-all"} <= tasks.keys()
    few, every = tasks["mlp-100"], tasks["mlp-all"]
    assert [len(task.splits(0).train.x) for task in (few, every)] == [100, 128]
    assert torch.equal(few.splits(0).train.x, every.splits(0).train.x[:100])
    assert torch.equal(few.splits(0).validation.x, every.splits(0).validation.x)
    d1 = [task.taught(0, task.splits(0)).train for task in (few, every)]
    assert torch.equal(d1[0].x, d1[1].x)
    assert set(d1[0].y.tolist()) == {0, 1, 2, 3, 4}


def test_sizes_that_the_scale_does_not_have_are_left_out():
    names = [task.name for task in samples.tasks(TINY, IMAGES) if task.name.startswith("mlp")]
    assert names == ["mlp-100", "mlp-all"]


@pytest.mark.slow
def test_tasks_of_one_network_share_their_teacher(tmp_path):
    performed(samples.EXPERIMENT, IMAGES, tmp_path, names=["mlp-100", "mlp-all", "cnn-100"])
    teachers = {path.name for path in (tmp_path / "teachers").iterdir()}
    assert teachers == {"mlp-0.safetensors", "cnn-0.safetensors"}
    by_name = {task.name: task for task in halves.tasks(TINY, IMAGES)}
    same, grown = by_name["lstm-same"], by_name["lstm-grown"]
    assert same.shares_teacher == grown.shares_teacher == "lstm"
    assert str(same.teacher()) == str(grown.teacher())


def test_the_teacher_sees_the_first_half_of_what_the_student_sees():
    for task in halves.tasks(TINY, IMAGES):
        splits = task.splits(0)
        taught = task.taught(0, splits)
        assert torch.equal(taught.train.x, splits.train.x[:64])
        assert torch.equal(taught.validation.x, splits.validation.x)
        same = str(task.teacher()) == str(task.student())
        assert same == task.name.endswith("same")


def test_a_network_of_the_same_size_is_continued_as_it_is():
    task = halves.tasks(TINY, IMAGES)[0]
    given = growth(task)
    student = task.registry["default"](given, 0).student
    for name, value in given.teacher.state_dict().items():
        assert torch.equal(student.state_dict()[name], value)


@pytest.mark.parametrize(
    ("experiment", "name", "methods"),
    [
        (theta.EXPERIMENT, "mlp", ("default", "uniform-0.1")),
        (lambdas.EXPERIMENT, "mlp", ("default",)),
        (samples.EXPERIMENT, "mlp-100", ("default",)),
        (halves.EXPERIMENT, "mlp-same", ("default",)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_it_runs(tmp_path, experiment, name, methods):
    performed(experiment, IMAGES, tmp_path, names=[name], methods=methods)
    assert len(list((tmp_path / "records").iterdir())) == len(methods)
    assert (tmp_path / f"{name}.md").stat().st_size > 0
