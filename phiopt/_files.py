"""Files of tensors with a description: safetensors with JSON in the header, no pickle. Whole files, and locks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from reprlib import repr as excerpt
from secrets import token_hex
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from phiopt._json import Field, parsed
from phiopt._shown import shown
from phiopt._types import Params

_KEY = "phiopt"
VERSION = 1


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``. When the block succeeds the temporary file replaces ``path``, in one step and
    with all its bytes on the disk. Even if the process or the machine stops, ``path`` is whole: the old file or the
    new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # tempfile makes files that only their owner can read. Process numbers are not unique among machines.
    own = f"{os.getpid()}-{token_hex(4)}"
    temporary = path.with_name(f".{path.stem}-{own}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _keep_name(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write the whole file or nothing."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A lock on ``path``. Only one thread of one process at a time is in the block, and the others wait. The system
    frees the lock of a process that dies. The file stays.

    Raises:
        OSError: The system, or its file system, has no locks.
    """
    if fcntl is None:
        raise OSError(f"{path}: this system has no file locks (fcntl)")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:  # processes begun in the block may have the file open too
            fcntl.flock(file, fcntl.LOCK_UN)


def _keep_name(folder: Path) -> None:
    """Write the folder's names to the disk too, where a folder can be opened."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write(
    path: str | os.PathLike[str], kind: str, tensors: Params, about: Mapping[str, Any]
) -> None:
    """Write the whole file or nothing."""
    header = json.dumps({"kind": kind, "version": VERSION, **about})
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic(Path(path)) as temporary:
        temporary.write_bytes(save(plain, metadata={_KEY: header}))


def read(path: str | os.PathLike[str], kind: str) -> tuple[Params, Field]:
    """The tensors, on the CPU, and the header of a file of this kind.

    Raises:
        ValueError: The file is not one that `write` made, or is of another kind or a later version.
        OSError: The file cannot be read.
    """
    name = os.fspath(path)
    if "\0" in name or (
        os.path.exists(name) and not os.path.isfile(name) and not os.path.isdir(name)
    ):
        raise ValueError(f"path: got {shown(name)}, must be a file")  # a pipe would be waited for
    try:
        with open(path, "rb"):  # this error names the path
            pass
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"path: {path} is no safetensors file: {error}") from error
    about = parsed(header or "{}", f"path: {path}")
    header_fields = about.members()
    if "kind" not in header_fields or header_fields["kind"].value != kind:
        actual = (
            excerpt(header_fields["kind"].value).strip("'")
            if "kind" in header_fields
            else "something else"
        )
        raise ValueError(f"path: {path} holds {actual}, not a {kind}")
    if about.members(["version"])["version"].whole(0) > VERSION:
        raise ValueError(
            f"path: {path} has format {about.value['version']}, this phiopt reads up to {VERSION}"
        )
    return tensors, about


def differences(
    role: str, expected: Mapping[str, tuple[int, ...]], actual: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """A line for each expected tensor that a model does not have, or has in another shape."""
    lines = []
    for name, shape in expected.items():
        if name not in actual:
            lines.append(f"{role} lacks {name} {shape}")
        elif actual[name] != shape:
            lines.append(f"{role}'s {name} is {actual[name]}, not {shape}")
    return lines


def check(path: str | os.PathLike[str], lines: list[str], most: int = 8) -> None:
    """Refuse a file if there are lines of differences from the given models."""
    if lines:
        more = [f"and {len(lines) - most} more"] if len(lines) > most else []
        raise ValueError(
            f"path: {path} belongs to other models: {'; '.join([*lines[:most], *more])}"
        )
