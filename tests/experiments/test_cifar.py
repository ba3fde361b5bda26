"""Experiment 4: standardised data, the lift, and CIFAR-10 from either kind of files."""

import pickle

import pytest
import torch
from torchvision.io import write_jpeg

from experiments import cifar, cifar_variants
from experiments.data import cifar10, cifar10_source
from experiments.methods import Growth
from experiments.models import built
from experiments.task import METHODS
from tests.experiments.cases import TINY, made_up, performed

IMAGES = cifar.Images(
    (made_up(200, 0), made_up(40, 1)),
    (made_up(200, 2, channels=3, size=32), made_up(40, 3, channels=3, size=32)),
    "JPEG copies",
)


def test_each_data_set_is_standardised_by_its_training_images():
    (train, test), (low, high) = cifar.standardised(IMAGES.cifar)
    assert train.x.mean().item() == pytest.approx(0, abs=1e-5)
    assert train.x.std().item() == pytest.approx(1, abs=1e-5)
    raw = IMAGES.cifar[1].x
    torch.testing.assert_close((test.x - low) / (high - low), raw, atol=1e-5, rtol=0)


def test_noise_has_the_range_of_the_data_it_is_drawn_for():
    task = cifar.tasks(TINY, IMAGES)[0]
    data = {"taught": task.taught(0, task.splits(0)).train, "own": task.splits(0).train}
    for noise, x in (
        (task.phi.neighbourhood, data["taught"].x),
        (task.criterion, data["own"].x),
    ):
        assert noise.low <= x.min()
        assert x.max() <= noise.high
        assert noise.high - noise.low < 1.1 * (x.max() - x.min())
    assert task.pixels == (task.criterion.low, task.criterion.high)


NO_SOLVING = ("scratch", "zero", "uniform", "default", "zero_out", "net2wider", "vv_zz", "shuffled")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(m, marks=[pytest.mark.slow] * (m not in ("default", "net2wider")))
        for m in NO_SOLVING
    ],
)
def test_every_network_can_start_so(method):
    for task in cifar.tasks(TINY, IMAGES):
        data = task.taught(0, task.splits(0)).train
        growth = Growth(
            built(task.teacher, 0), task.student, data, None, 0.01, task.phi, 128, task.lift
        )
        student = METHODS[method](growth, 0).student
        assert student(torch.rand(2, 3, 32, 32)).shape == (2, 10)
        bias = growth.teacher.head.bias
        assert torch.equal(student.head.bias, bias) == (method not in ("scratch", "shuffled"))


@pytest.mark.slow
def test_phi_lowers_its_objective_and_the_study_runs(tmp_path):
    scale = cifar_scale()
    performed(
        cifar.EXPERIMENT, IMAGES, tmp_path, scale=scale, names=["mlp"], methods=("scratch", "phi")
    )
    assert "phi" in (tmp_path / "mlp.md").read_text()


def cifar_scale():
    from dataclasses import replace

    return replace(TINY, student_budget=420)


def jpegs(root, part, classes, count):
    for number, name in enumerate(classes):
        folder = root / "cifar10" / part / name
        folder.mkdir(parents=True)
        for i in range(count):
            shade = torch.full((3, 32, 32), 40 * number + i, dtype=torch.uint8)
            write_jpeg(shade, str(folder / f"{i}.jpg"), quality=100)


def test_class_folders_are_read_in_the_order_of_their_names(tmp_path):
    jpegs(tmp_path, "train", ("dog", "bird", "cat"), 4)
    jpegs(tmp_path, "test", ("dog", "bird", "cat"), 2)
    train, test = cifar10(tmp_path)
    assert (train.x.shape, test.x.shape) == ((12, 3, 32, 32), (6, 3, 32, 32))
    # Shades were 0, 40 and 80 for dog, bird and cat.
    shades = torch.tensor([40, 80, 0])[train.y] / 255
    assert ((train.x.mean((1, 2, 3)) - shades).abs() < 6 / 255).all()
    assert train.y.bincount().tolist() == [4, 4, 4]
    assert train.y.tolist() != sorted(train.y.tolist())


def test_torchvisions_own_files_are_read(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rows = torch.arange(2 * 3072).remainder(251).reshape(2, 3072).to(torch.uint8)
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        batch = {"data": rows.numpy(), "labels": [3, 7]}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = {"label_names": [str(n) for n in range(10)]}
    (folder / CIFAR10.meta["filename"]).write_bytes(pickle.dumps(names))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    train, test = cifar10(tmp_path)
    assert (len(train.x), len(test.x)) == (10, 2)
    order = test.y.argsort()
    assert test.y[order].tolist() == [3, 7]
    assert torch.equal((test.x[order] * 255).round().reshape(2, -1), rows.float())


def test_missing_and_empty_folders_say_what_belongs_there(tmp_path):
    with pytest.raises(ValueError, match=r"class folders in .*cifar10 or torchvision's files"):
        cifar10(tmp_path)
    (tmp_path / "cifar10").mkdir()
    with pytest.raises(ValueError, match=r"train holds no class folders of .*--download lets it"):
        cifar10(tmp_path)


def test_titles_say_which_files_cifar_was_read_from(tmp_path):
    assert all("(JPEG copies)" in task.title for task in cifar.tasks(TINY, IMAGES))
    assert cifar10_source(tmp_path) == "original files"
    (tmp_path / "cifar10").mkdir()
    assert cifar10_source(tmp_path) == "JPEG copies"


def test_the_variants_change_the_inputs_and_the_head():
    made = {task.name: task for task in cifar_variants.tasks(TINY, IMAGES)}
    assert list(made) == [
        f"{n}{change}" for n in ("mlp", "cnn") for change in ("", "-raw", "-centred")
    ]
    usual, raw, centred = (made[name].splits(0).train.x for name in list(made)[:3])
    torch.testing.assert_close(usual, centred)
    torch.testing.assert_close((usual - usual.mean()) / usual.std(), (raw - raw.mean()) / raw.std())
    assert (raw.min() >= 0, made["mlp-raw"].pixels) == (True, (0.0, 1.0))
    corner, centre = (
        made[name].taught(0, made[name].splits(0)).train.x for name in ("mlp", "mlp-centred")
    )
    # Means are summed in another order.
    torch.testing.assert_close(corner[..., :28, :28], centre[..., 2:30, 2:30])
    # Half of the validation part is measured, and no test image.
    assert all(not task.same_test and len(task.splits(0).test.x) == 20 for task in made.values())


def test_a_head_is_reset_for_the_variants():
    task = cifar_variants.tasks(TINY, IMAGES)[0]
    data = task.taught(0, task.splits(0)).train
    growth = Growth(
        built(task.teacher, 0), task.student, data, None, 0.01, task.phi, 128, task.lift
    )
    fresh, student = built(task.student, 0), task.registry["default-head-reset"](growth, 0).student
    assert torch.equal(student.head.weight, fresh.head.weight)
    assert not torch.equal(student.hidden[0].weight, fresh.hidden[0].weight)


def test_a_corrupt_image_is_named(tmp_path):
    for part in ("train", "test"):
        jpegs(tmp_path, part, ("bird", "cat"), 2)
    broken = tmp_path / "cifar10" / "train" / "cat" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"train/cat/1\.jpg is no JPEG image"):
        cifar10(tmp_path)
