"""A solution as a file: w1 and the student's buffers as tensors, the report as JSON."""

from __future__ import annotations

import os
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from phiopt import _files
from phiopt._json import Field
from phiopt._modules import state_of, with_tensors
from phiopt._types import Params
from phiopt._values import instance, new_file, path_of
from phiopt.objective import Lambdas
from phiopt.solve.solution import Certificate, Solution, Spectrum, Stats, Status

_KIND = "solution"
_APART = ("student", "params", "map")
"""Kept as tensors, or in a file of its own (`GrowthMap.save`); everything else goes into the header."""
_HINTS: dict[Any, dict[str, Any]] = {
    kind: get_type_hints(kind) for kind in (Solution, Certificate, Stats, Spectrum, Lambdas)
}
"""What each field may hold."""


def save(solution: Solution, path: str | os.PathLike[str]) -> None:
    """Write ``solution``; λ that are tensors are kept as numbers, without their graph."""
    new_file("path", path)
    about = {
        f.name: _plain(getattr(solution, f.name)) for f in fields(solution) if f.name not in _APART
    }
    _files.write(
        path,
        _KIND,
        {**state_of(solution.student), **solution.params},
        {"report": about, "params": list(solution.params)},
    )


def load(path: str | os.PathLike[str], student: nn.Module) -> Solution:
    """Read a solution into a copy of ``student``, which is checked against it."""
    path_of("path", path)
    instance("student", student, nn.Module, "an nn.Module")
    tensors, about = _files.read(path, _KIND)
    held = state_of(student)
    found = {name: tuple(value.shape) for name, value in held.items()}
    expected = {name: tuple(value.shape) for name, value in tensors.items()}
    _files.check(
        path,
        _files.differences("student", expected, found)
        + [f"student has {name} too" for name in found if name not in expected]
        + [
            f"student's {name} is {value.dtype}, not {tensors[name].dtype}"
            for name, value in held.items()
            if name in tensors and value.dtype != tensors[name].dtype
        ],
    )
    parts = about.members(["report"])
    report = parts["report"]
    wanted = {name: kind for name, kind in _HINTS[Solution].items() if name not in _APART}
    made = _fields(Solution, wanted, report)
    loaded = with_tensors(student, tensors)
    params = {name: p.detach().clone() for name, p in loaded.named_parameters()}
    if "params" in parts:  # else of before it was kept: all
        params = {name: params[name] for name in _names(parts["params"], params)}
    return Solution(student=loaded, params=params, **made)


def _names(field: Field, params: Params) -> list[str]:
    """Of the parameters that were solved for."""
    return [item.text(params) for item in field.items()]


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


def _revived(kind: Any, field: Field) -> Any:
    """The inverse of `_plain` for a value of this kind: nothing else can come out."""
    if kind is int:
        return field.whole()
    if kind in (float, str):
        return field.number() if kind is float else field.text()
    of = get_args(kind)
    if get_origin(kind) is UnionType or get_origin(kind) is Union:  # or None, or a tensor
        return None if field.value is None and type(None) in of else _revived(of[0], field)
    if kind is Status:
        return Status[field.members(["status"])["status"].text(Status.__members__)]
    if kind is Exception:
        return RuntimeError(field.members(["exception"])["exception"].text())
    if kind in _HINTS:
        parts = field.members(["class", "fields"])
        parts["class"].text([kind.__name__])
        made = _fields(kind, _HINTS[kind], parts["fields"])
        try:
            return kind(**made)
        except (TypeError, ValueError) as error:
            raise field.wrong(f"a {kind.__name__}: {error}") from error
    holder: Any = get_origin(kind)
    within = field.members([holder.__name__])[holder.__name__]
    if holder is dict:
        return {key: _revived(of[1], item) for key, item in within.members().items()}
    return holder(_revived(of[0], item) for item in within.items())


def _fields(kind: Any, hints: dict[str, Any], field: Field) -> dict[str, Any]:
    """What the fields of a class hold; files of before it had one with a default lack that."""
    needed = [f.name for f in fields(kind) if f.name in hints and f.default is MISSING]
    parts = field.members(needed)
    for name in parts.keys() - hints.keys():
        raise parts[name].wrong(f"left out: a {kind.__name__} has no such field")
    return {name: _revived(hints[name], part) for name, part in parts.items()}
