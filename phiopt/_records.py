"""Dataclasses as JSON, and back as the types of their annotations."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from phiopt._json import Field

_hints = cache(get_type_hints)


def plain(value: Any) -> Any:
    """``value`` in terms of JSON: a dataclass as the name of its class and its fields, a member of an enum
    as the names of enum and member, a tensor as numbers, an exception as its text.
    """
    if isinstance(value, Enum):
        return {type(value).__name__.lower(): value.name}
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, BaseException):
        return {"exception": f"{type(value).__name__}: {value}"}
    if is_dataclass(value):
        return {
            "class": type(value).__name__,
            "fields": {f.name: plain(getattr(value, f.name)) for f in fields(value)},
        }
    if isinstance(value, dict):
        return {"dict": {key: plain(item) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [plain(item) for item in value]}
    return value


def revived(kind: Any, field: Field) -> Any:
    """The inverse of `plain`, for a value of the type ``kind``, as in an annotation. The result is always of this type.

    Raises:
        ValueError: The field holds something else. The message names the place.
    """
    if kind is int:
        return field.whole()
    if kind in (float, str):
        return field.number() if kind is float else field.text()
    of = get_args(kind)
    if get_origin(kind) is UnionType or get_origin(kind) is Union:  # or None, or a tensor
        return None if field.value is None and type(None) in of else revived(of[0], field)
    if isinstance(kind, type) and issubclass(kind, Enum):
        key = kind.__name__.lower()
        return kind[field.members([key])[key].text(kind.__members__)]
    if kind is BaseException:
        return RuntimeError(field.members(["exception"])["exception"].text())
    if is_dataclass(kind):
        return _revived_object(kind, field)
    collection: Any = get_origin(kind)
    inner = field.members([collection.__name__])[collection.__name__]
    if collection is dict:
        return {key: revived(of[1], item) for key, item in inner.members().items()}
    return collection(revived(of[0], item) for item in inner.items())


def _revived_object(kind: Any, field: Field) -> Any:
    parts = field.members(["class", "fields"])
    parts["class"].text([kind.__name__])
    values = revived_fields(kind, parts["fields"])
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise field.wrong(f"a {kind.__name__}: {error}") from error


def revived_fields(kind: Any, field: Field, apart: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass by name, without those of ``apart``. An older file may lack a field with a default."""
    hints = {name: hint for name, hint in _hints(kind).items() if name not in apart}
    needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
    parts = field.members([name for name in needed if name in hints])
    for name in parts.keys() - hints.keys():
        raise parts[name].wrong(f"left out: a {kind.__name__} has no such field")
    return {name: revived(hints[name], part) for name, part in parts.items()}
