"""Checks of paths that a user gives. They load no heavy library, for a command line that answers a mistake at once."""

from __future__ import annotations

import os
from pathlib import Path


def new_file(name: str, value: object) -> Path:
    """``value`` as the path of a file that can be written, in a folder that is there or can be made.

    Raises:
        TypeError, ValueError: ``value`` is no path, or the path of a device.
        OSError: ``value`` is a folder, or its folder cannot be written; the message names the argument.
    """
    text = check_path(name, value)
    if "\0" in text:
        raise ValueError(f"{name}: got {text!r}, must be a path, without NUL")
    path = Path(text)
    folder = next(p for p in path.absolute().parents if os.path.exists(p))
    if path.is_dir():
        raise IsADirectoryError(f"{name}: got {text!r}, a folder, must be a file")
    if path.exists() and not path.is_file():
        raise ValueError(f"{name}: got {text!r}, a device or pipe, must be a file")
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{name}: got {text!r}, but {folder} is no folder, must lie in one"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{name}: got {text!r}, must lie in a folder that can be written; {folder} cannot"
        )
    return path


def check_path(name: str, value: object) -> str:
    """The path's text. An error by ``name`` unless ``value`` is a path that is not empty."""
    if not isinstance(value, str | os.PathLike):
        from phiopt._checks import instance  # which loads PyTorch

        instance(name, value, (str, os.PathLike), "a path")
    text = os.fspath(value)  # type: ignore[call-overload]
    if not text:
        raise ValueError(f"{name}: got {value!r}, must be a path")
    return str(text)
