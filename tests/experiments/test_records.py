"""Records on disk: whole or absent, and never mixed with other settings."""

import json
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments import records
from experiments.errors import UsageError
from experiments.records import RunDirectory, atomic, environment, load_module, save_module
from experiments.schema import MEASURES

SETTINGS = {"budget": 10, "rates": (0.1, 0.2)}


def record(method="zero", seed=0):
    return {
        "task": "t",
        "method": method,
        "seed": seed,
        "learning_rate": 0.1,
        "epoch": 5,
        "curve": [{"gradients": 0, "accuracy": 0.5, "cross_entropy": 1.0}],
        "initialisation_gradients": 0,
        "seconds": 1.0,
        "test": dict.fromkeys(MEASURES, 0.5),
        "corruption": {"percentages": [0.0], "accuracy": [0.5], "cross_entropy": [1.0]},
        "environment": environment(torch.device("cpu")),
    }


def test_a_record_is_read_back_with_its_student(tmp_path):
    directory = RunDirectory(tmp_path, SETTINGS)
    student = nn.Linear(3, 2)
    directory.write(record(), student)
    assert RunDirectory(tmp_path, SETTINGS).read("t", "zero", 0) == record()
    loaded = load_module(nn.Linear(3, 2), directory.student_path("t", "zero", 0))
    assert torch.equal(loaded.weight, student.weight)
    assert directory.read("t", "zero", 1) is None
    assert directory.read("t", "default", 0) is None


@pytest.mark.parametrize("damage", ["half", "other cell", "no curve", "no student"])
def test_a_damaged_record_counts_as_missing(tmp_path, damage):
    directory = RunDirectory(tmp_path, SETTINGS)
    directory.write(record(), nn.Linear(1, 1))
    path = directory.record_path("t", "zero", 0)
    if damage == "half":
        path.write_text(path.read_text()[:40])
    elif damage == "other cell":
        path.write_text(json.dumps(record(seed=1)))
    elif damage == "no curve":
        path.write_text(json.dumps({k: v for k, v in record().items() if k != "curve"}))
    else:
        directory.student_path("t", "zero", 0).unlink()
    assert directory.read("t", "zero", 0) is None


def test_a_result_that_is_not_a_number_is_not_written(tmp_path):
    directory = RunDirectory(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="JSON compliant"):
        directory.write({**record(), "learning_rate": float("nan")}, nn.Linear(1, 1))
    assert directory.read("t", "zero", 0) is None


def test_other_settings_are_refused_by_name(tmp_path):
    RunDirectory(tmp_path, SETTINGS)
    with pytest.raises(UsageError, match=r"other settings\. budget: 10 there, 20 now\."):
        RunDirectory(tmp_path, {**SETTINGS, "budget": 20})


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        RunDirectory(tmp_path / "file" / "run", SETTINGS)


def test_atomic_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with suppress(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_modules_survive_the_disk_with_their_buffers(tmp_path):
    module = nn.BatchNorm1d(3)
    module(torch.randn(8, 3))
    save_module(module, tmp_path / "m.safetensors")
    loaded = load_module(nn.BatchNorm1d(3), tmp_path / "m.safetensors")
    assert not loaded.training
    for name, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_others_may_read_a_module_as_they_may_any_file(tmp_path):
    (tmp_path / "plain").write_text("")
    save_module(nn.Linear(1, 1), tmp_path / "m.safetensors")
    modes = {(tmp_path / name).stat().st_mode for name in ("plain", "m.safetensors")}
    assert len(modes) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
def test_a_full_disk_is_an_os_error(tmp_path, monkeypatch):
    @contextmanager
    def full(path):
        yield Path("/dev/full")

    monkeypatch.setattr(records, "atomic", full)
    with pytest.raises(OSError, match="No space left"):
        save_module(nn.Linear(1, 1), tmp_path / "m.safetensors")


def test_the_experiment_comes_first_and_long_values_are_excerpts(tmp_path):
    layers = "Linear(in_features=64, out_features=32, bias=True) " * 8
    before = {"b": {"student": layers + "wide"}, "experiment": "basic, quick", "phiopt": "1"}
    RunDirectory(tmp_path, before)
    now = {**before, "b": {"student": layers + "narrow"}, "experiment": "basic, full"}
    with pytest.raises(UsageError) as caught:
        RunDirectory(tmp_path, now)
    text = str(caught.value).partition("other settings. ")[2]
    assert text.startswith("experiment: 'basic, quick' there, 'basic, full' now. b.student: …")
    assert "bias=True) wide' there" in text
    assert len(text) < 350


def test_a_line_after_a_torn_one_stands_alone(tmp_path):
    directory = RunDirectory(tmp_path, SETTINGS)
    directory.log("t", "T", ["zero"], [0])
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"command": "half')
    directory.log("t", "T", ["zero"], [1])
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["seeds"] == [1]
