"""Paths that nothing can be written to: refused by name, value and rule before any work, and nothing is harmed."""

import os

import pytest
import torch

import phiopt
from tests.bad import MAP, SOLUTION

SAVERS = {"map.save": MAP.save, "map.plot": MAP.plot, "solution.save": SOLUTION.save}


@pytest.fixture(params=SAVERS)
def save(request):
    return SAVERS[request.param]


def test_a_folder_is_no_file(save, tmp_path):
    with pytest.raises(IsADirectoryError, match=r"path: got '.*', a folder, must be a file"):
        save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder(save, tmp_path):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file" / "x.png", tmp_path / "file" / "deeper" / "x.png"):
        with pytest.raises(NotADirectoryError, match=r"path: got '.*', but .*file is no folder"):
            save(path)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_pipe_is_no_file(save, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"path: got '.*', a device or pipe, must be a file"):
        save(tmp_path / "pipe.png")
    assert (tmp_path / "pipe.png").is_fifo()


def test_a_folder_without_permission_is_named(save, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(PermissionError, match=r"path: got '.*', must lie in a folder that can be"):
        save(tmp_path / "new" / "x.png")
    assert not list(tmp_path.iterdir())


def test_text_with_nul_is_no_path(save, tmp_path):
    with pytest.raises(ValueError, match=r"path: got '.*', must be a path, without NUL"):
        save(f"{tmp_path}/a\0b.png")


def test_a_picture_has_a_known_ending(tmp_path):
    with pytest.raises(ValueError, match=r"path: got '.*\.xyz', must end in one of .*\.png"):
        MAP.plot(tmp_path / "map.xyz")
    MAP.plot(tmp_path / "new" / "folder" / "map")
    assert [path.name for path in tmp_path.rglob("*.*")] == ["map.png"]


def test_what_can_be_written_is(tmp_path):
    path = tmp_path / "new" / "folder" / "solution"
    for _ in range(2):  # over the old file too
        SOLUTION.save(str(path))
    loaded = phiopt.Solution.load(path, SOLUTION.student)
    for name, value in SOLUTION.params.items():
        assert torch.equal(loaded.params[name], value)
