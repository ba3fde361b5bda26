"""φ on the teacher's coordinates, its control, and the variants, which see no test image."""

from dataclasses import replace
from itertools import combinations

import torch
from torch import nn

from experiments import variants
from experiments.classes import known_classes
from experiments.methods import Descent, Growth, mapped
from experiments.models import built
from experiments.study import METHODS
from tests.experiments.cases import TINY, made_up, performed

IMAGES = made_up(200, 0), made_up(40, 1)


def growth():
    task = known_classes(TINY, "mlp", "made up", TINY.splits(IMAGES))
    data = task.taught(0, task.splits(0)).train
    return Growth(
        built(task.teacher, 0), task.student, data, task.classes, task.theta, task.phi, 128
    )


def test_the_slice_leaves_the_new_coordinates_at_the_control():
    given = growth()
    found, control = (METHODS[name](given, 0) for name in ("phi_slice", "matched"))
    mask = mapped(given, control.student).mask()
    solved, start = (dict(m.student.named_parameters()) for m in (found, control))
    assert all(torch.equal(solved[n][~mask[n]], start[n][~mask[n]]) for n in start)
    assert not any(torch.equal(solved[n][mask[n]], start[n][mask[n]]) for n in start)
    assert control.gradients == 0 < found.gradients


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


def test_every_variant_is_another_start():
    given = growth()
    given = replace(given, phi=replace(given.phi, three_terms=Descent(3, 1e-2)))
    starts = {}
    for name, method in variants.VARIANTS.items():
        found = method(given, 0)
        assert all(value.isfinite().all() for value in found.student.parameters())
        starts[name] = nn.utils.parameters_to_vector(found.student.parameters()).detach()
    pairs = combinations(starts, 2)
    assert not [(a, b) for a, b in pairs if torch.equal(starts[a], starts[b])]


def test_a_variant_runs_as_a_method_of_the_experiment(tmp_path):
    scale = replace(TINY, student_budget=300)
    performed(
        variants.EXPERIMENT, IMAGES, tmp_path, scale=scale, names=["mlp"], methods=("delta-0.6",)
    )
    assert (tmp_path / "records" / "mlp-delta-0.6-0.json").exists()
