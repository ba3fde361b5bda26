"""A canonical description of an object, in words and checksums, by which the arguments of two calls are compared."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from hashlib import sha256
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from phiopt._modules import state_of

SHORT = 80
"""Characters of a value's text. A longer text is cut and gets a checksum."""
FEW = 4
"""Entries of a tensor that are shown; a larger one is its shape and a checksum."""
LIBRARIES = ("builtins", "torch", "torchopt", "numpy", "phiopt", "typing", "abc")
"""Libraries whose classes are described by their names. Other classes are described by their methods too."""
MANY = 1000
"""Members of a collection that are described one by one; a larger collection becomes one checksum."""


def described(name: str, value: object, *, attributes: bool = True) -> dict[str, str]:
    """A description of ``value``: texts by dotted names that begin with ``name``.

    Tensors, arrays and random generators are described by checksums, functions by their code, their
    defaults and the values they enclose. Any other object is described by its ``repr``, without memory
    addresses.

    ``attributes`` adds what may differ between processes that do the same: the numbers, tensors and
    functions of its file that a function uses, the methods of a class, a module's structure and tensors,
    and the public attributes of objects without a ``repr`` of their own.
    """
    return dict(_leaves(name, value, attributes, {}))


def content(cell: CellType) -> Any:
    """The value that a function encloses in ``cell``; None while the cell is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def checksum(parts: Iterable[str | bytes]) -> str:
    """Twelve hexadecimal digits."""
    digest = sha256()
    for item in parts:
        digest.update(item.encode() if isinstance(item, str) else item)
    return digest.hexdigest()[:12]


def _leaves(
    name: str, value: Any, attributes: bool, seen: dict[int, tuple[str, Any]]
) -> Iterator[tuple[str, str]]:
    if id(value) in seen:
        yield name, f"as {seen[id(value)][0]}"
        return
    text, members = _parts(value, attributes)
    yield name, text if len(text) <= SHORT else f"{text[:SHORT]}... {checksum([text])}"
    if not members:
        return
    seen[id(value)] = name, value  # alive, for its id to stay its own
    inner = (
        leaf
        for key, member in members.items()
        for leaf in _leaves(f"{name}.{key}", member, attributes, seen)
    )
    if len(members) > MANY and not isinstance(value, nn.Module):
        yield f"{name}.*", checksum(f"{key}={text};" for key, text in inner)
    else:
        yield from inner


def _parts(value: Any, attributes: bool) -> tuple[str, dict[str, Any]]:
    """The value's own text, and its members."""
    if isinstance(value, Tensor):
        return _tensor(value), {}
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype} {value.shape} {checksum([value.tobytes()])}", {}
    if (state := _state(value)) is not None:
        return f"{type(value).__name__} {state}", {}
    if isinstance(value, FunctionType):
        return f"{value.__qualname__} {checksum(_code(value.__code__))}", _uses(value, attributes)
    if isinstance(value, partial):
        return "partial", {"func": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, MethodType):
        return f"method {value.__name__}", {"function": value.__func__, "of": value.__self__}
    if isinstance(value, type | ModuleType):
        return value.__name__, {}
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return f"{type(value).__name__} of {len(value)}", _members(value)
    if isinstance(value, nn.Module) and attributes:
        return f"{type(value).__name__} {checksum(_structure(value))}", {**state_of(value)}
    if is_dataclass(value):
        return _kind(value, attributes), {f.name: getattr(value, f.name) for f in fields(value)}
    if attributes and getattr(type(value), "__repr__", None) is object.__repr__:
        public = {n: v for n, v in getattr(value, "__dict__", {}).items() if not n.startswith("_")}
        return _kind(value, attributes), public
    return _shown(value), {}


def _kind(value: object, methods: bool) -> str:
    """The class. Methods that belong to no library add a checksum."""
    codes = list(_methods(type(value))) if methods else []
    return f"{type(value).__qualname__} {checksum(codes)}" if codes else type(value).__qualname__


def _methods(kind: type) -> Iterator[str | bytes]:
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in LIBRARIES:
            continue
        for name, value in vars(base).items():
            method = getattr(value, "__func__", getattr(value, "fget", value))
            if isinstance(method, FunctionType):
                yield name
                yield from _code(method.__code__)


def _shown(value: object) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _tensor(value: Tensor) -> str:
    trained = ", requires grad" if value.requires_grad else ""
    value = value.detach()
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        return f"{_shown(value)}{trained}"
    flat = value.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    entries = flat.tolist() if len(flat) <= FEW else checksum([_bytes(flat)])
    return f"{value.dtype} {tuple(value.shape)} {entries}{trained}"


def _bytes(value: Tensor) -> bytes:
    return value.view(torch.uint8).numpy().tobytes()


def _state(value: object) -> str | None:
    """The checksum of a random generator's state; None of anything else."""
    if isinstance(value, Generator):
        return checksum([_bytes(value.get_state())])
    if isinstance(value, np.random.Generator):
        return checksum([repr(value.bit_generator.state)])
    if isinstance(value, np.random.RandomState):
        return checksum([repr(value.get_state(legacy=False))])
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return checksum([repr(value.getstate())])
    return None


def _code(code: CodeType) -> Iterator[str | bytes]:
    """A function's code, without its place in the file."""
    yield code.co_code
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            unordered = isinstance(constant, frozenset)
            yield repr(sorted(map(repr, constant))) if unordered else repr(constant)


def _uses(function: FunctionType, outside: bool) -> dict[str, Any]:
    """The values that a function encloses, its defaults, and with ``outside`` what it uses of its file."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    used: dict[str, Any] = {name: content(cell) for name, cell in cells}
    used |= {f"default {i}": value for i, value in enumerate(function.__defaults__ or ())}
    used |= {f"default {name}": value for name, value in (function.__kwdefaults__ or {}).items()}
    for name in function.__code__.co_names if outside else ():
        value = function.__globals__.get(name)
        own = isinstance(value, FunctionType) and value.__globals__ is function.__globals__
        if own or isinstance(value, int | float | str | Tensor):
            used[f"global {name}"] = value
    return used


def _members(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, set | frozenset):  # in an order that does not change with the process
        return dict(enumerate(sorted(value, key=_shown)))  # type: ignore[arg-type]
    names = getattr(value, "_fields", range(len(value)))
    return {str(name): item for name, item in zip(names, value, strict=True)}


def _structure(module: nn.Module) -> Iterator[str | bytes]:
    """The types of a module's parts, and the settings that the parts keep as attributes."""
    yield _shown(module)
    for name, part in module.named_modules():
        yield f"{name}: {type(part).__qualname__}"
        yield from _methods(type(part))
        for key, value in vars(part).items():
            if not key.startswith("_") and key != "training" and _plain(value):
                yield f"{key}={value!r}"


def _plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_plain, value))
    return isinstance(value, int | float | str | None)
