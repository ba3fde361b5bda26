"""A solution as a file: w1 and the student's buffers as tensors, the report as JSON."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from phiopt import _files
from phiopt._modules import with_tensors
from phiopt.solve import solution as kinds
from phiopt.solve.solution import Solution, Status

_KIND = "solution"
_APART = ("student", "params")
"""Kept as tensors; everything else goes into the header."""
_CLASSES = {k.__name__: k for k in vars(kinds).values() if isinstance(k, type) and is_dataclass(k)}


def save(solution: Solution, path: str | os.PathLike[str]) -> None:
    """Write ``solution``; λ that are tensors are kept as numbers, without their graph."""
    held = dict(solution.student.named_parameters()) | dict(solution.student.named_buffers())
    about = {
        f.name: _plain(getattr(solution, f.name)) for f in fields(solution) if f.name not in _APART
    }
    _files.write(path, _KIND, {**held, **solution.params}, {"report": about})


def load(path: str | os.PathLike[str], student: nn.Module) -> Solution:
    """Read a solution into a copy of ``student``, which is checked against it."""
    tensors, about = _files.read(path, _KIND)
    held = {**dict(student.named_parameters()), **dict(student.named_buffers())}
    found = {name: tuple(value.shape) for name, value in held.items()}
    expected = {name: tuple(value.shape) for name, value in tensors.items()}
    _files.check(
        path,
        _files.differences("student", expected, found)
        + [f"student has {name} too" for name in found if name not in expected],
    )
    loaded = with_tensors(student, tensors)
    params = {name: p.detach().clone() for name, p in loaded.named_parameters()}
    report = {key: _revived(value) for key, value in about["report"].items()}
    return Solution(student=loaded, params=params, **report)


def _plain(value: Any) -> Any:
    """What JSON knows; objects of this library by the name of their class."""
    if isinstance(value, Status):
        return {"status": value.name}
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Exception):
        return {"exception": f"{type(value).__name__}: {value}"}
    if is_dataclass(value):
        return {
            "class": type(value).__name__,
            "fields": {f.name: _plain(getattr(value, f.name)) for f in fields(value)},
        }
    if isinstance(value, dict):
        return {"dict": {key: _plain(item) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_plain(item) for item in value]}
    return value


def _revived(value: Any) -> Any:
    """The inverse of `_plain`; nothing but the classes of a solution's fields can come out."""
    if not isinstance(value, dict):
        return value
    if "status" in value:
        return Status[value["status"]]
    if "exception" in value:
        return RuntimeError(value["exception"])
    if "class" in value:
        made = {key: _revived(item) for key, item in value["fields"].items()}
        return _CLASSES[value["class"]](**made)
    if "dict" in value:
        return {key: _revived(item) for key, item in value["dict"].items()}
    ((name, items),) = value.items()
    return {"list": list, "tuple": tuple}[name](_revived(item) for item in items)
