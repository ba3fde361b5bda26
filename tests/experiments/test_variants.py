"""φ on the teacher's coordinates, its control, and the variants, which see no test image."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

from experiments import basic, norms, samples, study, variance, variants
from experiments.classes import known_classes
from experiments.methods import Descent, Growth, mapped, solve_phi
from experiments.models import built
from experiments.task import METHODS
from tests.experiments.cases import CPU, TINY, made_up, performed

IMAGES = made_up(200, 0), made_up(40, 1)


def growth():
    task = known_classes(TINY, "mlp", "made up", TINY.splits(IMAGES))
    data = task.taught(0, task.splits(0)).train
    return Growth(
        built(task.teacher, 0), task.student, data, task.classes, task.theta, task.phi, 128
    )


def test_the_slice_leaves_the_new_coordinates_at_the_control():
    given = growth()
    actual, control = (METHODS[name](given, 0) for name in ("phi_slice", "matched"))
    mask = mapped(given, control.student).mask()
    solved, start = (dict(m.student.named_parameters()) for m in (actual, control))
    assert all(torch.equal(solved[n][~mask[n]], start[n][~mask[n]]) for n in start)
    assert not any(torch.equal(solved[n][mask[n]], start[n][mask[n]]) for n in start)
    assert control.gradients == 0 < actual.gradients


def test_new_classes_start_as_large_as_old_ones():
    head = METHODS["matched"](growth(), 0).student.head.weight
    assert torch.allclose(head[:5].square().mean(), head[5:].square().mean())


def test_no_test_image_is_measured():
    everything, test = IMAGES
    marked = (everything, test._replace(x=torch.full_like(test.x, -1.0)))
    for task in variants.tasks(TINY, marked):
        train, validation, measured = task.splits(0)
        whole = TINY.splits(marked)(0)
        assert torch.equal(train.x, whole.train.x)
        assert torch.equal(torch.cat([validation.x, measured.x]), whole.validation.x)
        assert not (measured.x == -1).any()


@pytest.mark.slow
def test_every_variant_is_another_start():
    given = growth()
    given = replace(given, phi=replace(given.phi, three_terms=Descent(3, 1e-2)))
    starts = {}
    for name, method in variants.VARIANTS.items():
        actual = method(given, 0)
        assert all(value.isfinite().all() for value in actual.student.parameters())
        starts[name] = nn.utils.parameters_to_vector(actual.student.parameters()).detach()
    # What is trained at one rate differs in its training.
    pairs = combinations([name for name in starts if "trained-at" not in name], 2)
    assert not [(a, b) for a, b in pairs if torch.equal(starts[a], starts[b])]


@pytest.mark.slow
def test_a_variant_runs_as_a_method_of_the_experiment(tmp_path):
    scale = replace(TINY, student_budget=300)
    performed(
        variants.EXPERIMENT, IMAGES, tmp_path, scale=scale, names=["mlp"], methods=("delta-0.6",)
    )
    assert (tmp_path / "records" / "mlp-delta-0.6-0.json").exists()


def moved(method, given):
    """Names of the parameters that φ moved from its start."""
    actual = method(given, 0)
    start, end = (dict(module.named_parameters()) for module in (actual.start, actual.student))
    return {name for name in start if not torch.equal(start[name], end[name])}


@pytest.mark.slow
def test_layers_that_phi_may_move():
    given = growth()
    early, late = (
        moved(variants.VARIANTS[name], given) for name in ("early-layers", "late-layers")
    )
    assert {name.rpartition(".")[0] for name in early} == {"hidden.0", "hidden.1"}
    assert {name.rpartition(".")[0] for name in late} == {"head"}


@pytest.mark.slow
def test_what_a_reset_leaves_is_as_constructed():
    given = growth()
    fresh = dict(built(given.student, 0).named_parameters())
    for name, kept in (("head-reset", {"hidden.0", "hidden.1"}), ("reset-late", {"hidden.0"})):
        student = dict(variants.VARIANTS[name](given, 0).student.named_parameters())
        same = {n for n in fresh if torch.equal(fresh[n], student[n])}
        assert {n.rpartition(".")[0] for n in fresh.keys() - same} == kept
    start = variants.VARIANTS["head-reset-start"](given, 0).start
    assert torch.equal(start.head.weight, fresh["head.weight"])


@pytest.mark.slow
def test_delta_rises_and_both_solves_are_paid_for(monkeypatch):
    seen = []

    def spy(growth, seed, lambdas, descent, **options):
        actual = solve_phi(growth, seed, lambdas, descent, **options)
        seen.append((growth.phi.neighbourhood.delta, descent.steps, options["fill"], actual))
        return actual

    monkeypatch.setattr(variants, "solve_phi", spy)
    given = growth()
    actual = variants.VARIANTS["delta-rising"](given, 0)
    (low, half, _, first), (high, rest, start, last) = seen
    assert low == pytest.approx(0.1)
    assert high == given.phi.neighbourhood.delta == pytest.approx(0.3)
    assert half == rest == given.phi.three_terms.steps // 2
    assert start is first.student
    assert actual.gradients == first.gradients + last.gradients
    assert actual.start is first.start


def test_a_normalised_descent_does_not_see_the_size_of_gradients():
    def step(descent, size):
        w = {"w": torch.zeros(2)}
        optimizer = descent.optimizer(eps_root=1.0)  # so that Adam sees it
        gradient = {"w": torch.tensor([size, -size])}
        return optimizer.update(gradient, optimizer.init(w), params=w)[0]["w"]

    plain = Descent(4, 1e-3, normalised=False)
    assert torch.equal(step(Descent(4, 1e-3), 1.0), step(Descent(4, 1e-3), 50.0))
    assert not torch.equal(step(plain, 1.0), step(plain, 50.0))


def test_statistics_of_norms_are_kept_reset_or_taken_on_d2():
    task = variants.normed(TINY, IMAGES)
    splits = task.splits(0)
    data = task.taught(0, splits).train
    teacher = built(task.teacher, 0).train()
    teacher(data.x)
    assert isinstance(teacher.convolutions[0][1], nn.BatchNorm2d)
    given = Growth(
        teacher.eval(), task.student, data, task.classes, 0.01, task.phi, 128, d2=splits[:2]
    )
    kept = METHODS["default"](given, 0)
    changed = {
        name: norms.STATISTICS[f"default-statistics-{name}"](given, 0)
        for name in ("reset", "recomputed")
    }
    means = {
        name: actual.student.convolutions[0][1].running_mean
        for name, actual in {"kept": kept, **changed}.items()
    }
    assert torch.equal(means["kept"][:1], teacher.convolutions[0][1].running_mean)
    assert (means["reset"] == 0).all()
    first = kept.student.convolutions[0][0](splits.train.x).mean((0, 2, 3))
    torch.testing.assert_close(means["recomputed"], first)
    assert changed["recomputed"].gradients == pytest.approx(1 / 3)
    assert kept.student.training == changed["recomputed"].student.training
    brief = replace(given, phi=replace(given.phi, three_terms=Descent(3, 1e-3)))
    solved = norms.STATISTICS["phi_slice-statistics-recomputed"](brief, 0)
    assert all(value.isfinite().all() for value in solved.student.state_dict().values())
    assert solved.start is not None


def test_the_mlp_alone_is_the_quick_default(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(
        study, "finish", lambda task, methods, *rest, **named: ran.append(task.name)
    )
    quick = replace(TINY, name="quick")
    for experiment, scale, names, expected in (
        (variants.EXPERIMENT, quick, None, ["mlp", "mlp-same"]),
        (samples.EXPERIMENT, quick, None, ["mlp-100", "mlp-all"]),
        (
            variance.EXPERIMENT,
            quick,
            ["all"],
            variance_names := [t.name for t in variance.tasks(TINY, IMAGES)],
        ),
        (variance.EXPERIMENT, TINY, None, variance_names),
        (basic.EXPERIMENT, quick, None, ["mlp", "cnn", "lstm"]),
    ):
        ran.clear()
        tasks = experiment.tasks(scale, IMAGES)
        experiment.run(
            scale, tasks, names, ("default",), (0,), CPU, tmp_path / experiment.name / scale.name
        )
        assert ran == expected


def test_methods_of_other_tasks_are_left_out(monkeypatch, tmp_path):
    ran = {}
    monkeypatch.setattr(
        study, "finish", lambda task, methods, *rest, **named: ran.update({task.name: methods})
    )
    tasks = variants.tasks(TINY, IMAGES)
    wanted = ("default", "default-statistics-reset")
    variants.EXPERIMENT.run(TINY, tasks, ("mlp", "cnn-norm"), wanted, (0,), CPU, tmp_path)
    assert ran == {"mlp": ["default"], "cnn-norm": list(wanted)}


@pytest.mark.slow
def test_one_teacher_has_the_table_of_its_variance(tmp_path):
    performed(variance.EXPERIMENT, IMAGES, tmp_path, names=["mlp"], seeds=(0, 1))
    assert "prediction variance, one teacher |" in (tmp_path / "mlp.md").read_text()
    assert [p.name for p in (tmp_path / "teachers").glob("*.safetensors")] == ["mlp-0.safetensors"]
    performed(basic.EXPERIMENT, IMAGES, tmp_path / "basic", names=["mlp"], seeds=(0, 1))
    text = (tmp_path / "basic" / "mlp.md").read_text()
    assert "prediction variance, each seed a teacher of its own |" in text
