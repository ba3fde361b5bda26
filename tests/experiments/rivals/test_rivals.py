"""What all rivals have in common, and those of them that are a line of another's."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from experiments.methods import METHODS, Initialised, extended
from experiments.rivals import RIVALS
from experiments.train import Recipe, fit
from experiments.weights import WEIGHTED
from phiopt._modules import state_of
from tests.experiments.rivals.problems import growth_of


def test_the_names_are_new():
    assert not RIVALS.keys() & METHODS.keys()


COSTLY = {"ligo", "robustified4", "robustified_slice", "robustified4_slice", "phi_early"}
EACH = [pytest.param(r, marks=[pytest.mark.slow] if r in COSTLY else []) for r in RIVALS]


@pytest.mark.parametrize("rival", EACH)
def test_a_rival_is_a_function_of_its_arguments_modifies_none_and_trains(rival, growth):
    before = deepcopy(growth.teacher.state_dict())
    data = growth.data.x.clone()
    state = torch.get_rng_state()
    first = RIVALS[rival](growth, 3)
    assert torch.equal(torch.get_rng_state(), state)
    again, other = RIVALS[rival](growth, 3), RIVALS[rival](growth, 4)
    assert isinstance(first, Initialised)
    values = [
        torch.cat([p.flatten() for p in r.student.parameters()]) for r in (first, again, other)
    ]
    assert values[0].isfinite().all()
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert torch.equal(growth.data.x, data)
    for name, value in growth.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    shared = {p.data_ptr() for p in growth.teacher.parameters()}
    assert not shared & {p.data_ptr() for p in first.student.parameters()}
    assert [(n, p.shape, p.dtype) for n, p in first.student.named_parameters()] == [
        (n, p.shape, p.dtype) for n, p in growth.student().named_parameters()
    ]
    trained = fit(first.student, growth.data, growth.data, Recipe(20, 40, ()), 1e-2, seed=0)
    losses = [point.cross_entropy for point in trained.curve]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("rival", ["zero_out", "net2wider", "vv_zz"])
def test_preserving_growths_compute_what_the_teacher_does(rival, growth):
    outputs = RIVALS[rival](growth, 0).student(growth.data.x)[:, list(growth.classes)]
    torch.testing.assert_close(outputs, growth.teacher(growth.data.x))


def test_zero_is_the_teacher_kept_small_and_trained_longer(growth):
    """Zero new units have zero gradients for ever, so no method of its own is needed."""
    small = growth_of("mlp", classes=None)
    same = replace(small, student=lambda: type(small.teacher)(16, (9, 12), 3).double())
    recipe = Recipe(30, 40, ())
    kept = fit(same.teacher, same.data, same.data, recipe, 1e-2, seed=0).model
    wide = fit(METHODS["zero"](same, 0).student, same.data, same.data, recipe, 1e-2, seed=0).model
    torch.testing.assert_close(wide(same.data.x), kept(same.data.x))
    assert not wide.hidden[0].weight[6:].any()
    assert not torch.equal(kept.head.weight, same.teacher.head.weight)


def test_glorot_draws_every_matrix_in_its_range(growth):
    student = RIVALS["glorot"](growth, 0).student
    for name, value in student.named_parameters():
        if value.ndim == 1:
            assert not value.any(), name
            continue
        receptive = value[0, 0].numel()
        bound = (6 / ((value.shape[0] + value.shape[1]) * receptive)) ** 0.5
        assert value.abs().max() <= bound, name
        assert value.std().item() == pytest.approx(bound / 3**0.5, rel=0.35), name


def test_shrink_and_perturb_scales_the_teacher_and_adds_noise():
    growth = growth_of("mlp")
    student, start = (m(growth, 0).student for m in (RIVALS["shrink_perturb"], METHODS["default"]))
    old = growth.teacher.hidden[0].weight
    noise = student.hidden[0].weight[:6] - 0.6 * old
    assert noise.mean().item() == pytest.approx(0, abs=0.01 * 4 / 96**0.5)
    assert noise.std().item() == pytest.approx(0.01, rel=0.3)
    assert torch.equal(student.hidden[0].weight[6:], start.hidden[0].weight[6:])
    kept = student.head.weight[[1, 3, 4], :5] - 0.6 * growth.teacher.head.weight
    assert 0 < kept.abs().max() < 0.05
    assert torch.equal(student.head.weight[[0, 2]], start.head.weight[[0, 2]])


def test_shuffled_has_the_teachers_weights_in_another_order():
    growth = growth_of("mlp")
    student = RIVALS["shuffled"](growth, 0).student
    for ours, theirs in (
        (student.hidden[0].weight[:6], growth.teacher.hidden[0].weight),
        (student.hidden[1].bias[:5], growth.teacher.hidden[1].bias),
        (student.head.weight[[1, 3, 4], :5], growth.teacher.head.weight),
    ):
        assert torch.equal(ours.flatten().sort().values, theirs.flatten().sort().values)
        assert not torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("rival", "early"), [("late_reset", "default"), ("phi_early", "phi_slice")]
)
@pytest.mark.parametrize(
    ("net", "kept"), [("mlp", 2), pytest.param("cnn", 2, marks=pytest.mark.slow)]
)
def test_the_first_half_of_the_layers_is_kept(rival, early, net, kept):
    growth = growth_of(net)
    student = RIVALS[rival](growth, 0).student
    copy, fresh = METHODS[early](growth, 0).student, METHODS["scratch"](growth, 0).student
    layers = dict.fromkeys(name.rpartition(".")[0] for name in state_of(student))
    for number, layer in enumerate(layers):
        source = copy if number < kept else fresh
        assert torch.equal(
            student.get_submodule(layer).weight, source.get_submodule(layer).weight
        ), layer
    assert not torch.equal(copy.head.weight, fresh.head.weight)


@pytest.mark.parametrize(
    ("rival", "phi", "fill"),
    [
        ("robustified", "phi", "default"),
        pytest.param("robustified4", "phi4", "default", marks=pytest.mark.slow),
        pytest.param("robustified_slice", "phi_slice", "matched", marks=pytest.mark.slow),
        ("robustified4_slice", "phi4_slice", "matched"),
    ],
)
def test_robustified_is_phi_of_the_small_teacher_extended(rival, phi, fill, growth):
    ours = RIVALS[rival](growth, 0)
    small = replace(growth, student=lambda: deepcopy(growth.teacher), classes=None)
    solved = (METHODS | WEIGHTED)[phi](small, 0)
    expected = extended(replace(growth, teacher=solved.student), 0, fill)
    for name, value in ours.student.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    assert ours.gradients == solved.gradients > 0
    assert not torch.equal(solved.student.head.weight, growth.teacher.head.weight)
    assert torch.equal(ours.start.head.weight, extended(growth, 0, fill).head.weight)
