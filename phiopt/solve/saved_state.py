"""The file of a checkpoint: a tree of numbers and tensors, and the arguments of the solve that it belongs to.

It is one safetensors file with JSON in it, written whole or not at all. Two files could not be replaced in one step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phiopt import _files
from phiopt._described import checksum, described
from phiopt._json import parsed
from phiopt._modules import overlapping
from phiopt._paths import check_path
from phiopt._types import Params

KIND = "checkpoint of a solve"
LISTED = 3
"""Differences that an error lists."""
TEXT = "state"
"""The tensor that holds the tree as JSON. A header has a largest length, which a long history would exceed."""


@dataclass(frozen=True)
class SavedState:
    """A state that was read.

    Args:
        path: The file, for errors.
        arguments: The arguments of its solve by name, as text.
        tree: Dictionaries and lists of numbers, texts and tensors. The tensors are on the CPU.
    """

    path: str
    arguments: Mapping[str, str]
    tree: dict[str, Any]

    def check_arguments(self, arguments: Mapping[str, str]) -> None:
        """Refuse other arguments, by their names.

        Raises:
            ValueError: An argument differs.
        """
        names = dict.fromkeys([*arguments, *self.arguments])
        pairs = {n: (arguments.get(n, "none"), self.arguments.get(n, "none")) for n in names}
        differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        if differing:
            listed = [f"{n}: got {now}, was {was}" for n, (now, was) in differing.items()][:LISTED]
            more = f"; and {len(differing) - LISTED} more" * (len(differing) > LISTED)
            raise ValueError(
                f"resume: {self.path} is of a solve with other arguments: {'; '.join(listed)}{more}. Give the same "
                "arguments, or leave resume=None to begin"
            )


def write(path: Path, arguments: Mapping[str, str], tree: Mapping[str, Any]) -> None:
    """Write the whole file or nothing."""
    tensors: Params = {}
    text = json.dumps(_packed(tree, "", tensors)).encode()
    total = _checksum(arguments, text, tensors)
    header = {"arguments": dict(arguments), "checksum": total}
    characters = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    _files.write(path, KIND, {**tensors, TEXT: characters}, header)


def read(path: str | os.PathLike[str]) -> SavedState:
    """Read what `write` wrote.

    Raises:
        ValueError: The file is damaged, or no checkpoint.
        OSError: The file is not there, or cannot be read.
    """
    check_path("resume", path)
    name = os.fspath(path)
    try:
        tensors, about = _files.read(name, KIND)
        parts = about.members(["arguments", "checksum"])
        arguments = {key: item.text() for key, item in parts["arguments"].members().items()}
        text = tensors.pop(TEXT).numpy().tobytes()
        if parts["checksum"].text() != _checksum(arguments, text, tensors):
            raise parts["checksum"].wrong("that of the rest: the file is damaged")
        tree = _unpacked(parsed(text, name).value, tensors)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"resume: {name} does not exist; leave resume=None to begin"
        ) from error
    except OSError as error:
        raise type(error)(f"resume: {name} cannot be read: {error}") from error
    except (ValueError, KeyError) as error:
        raise ValueError(f"resume: {str(error).removeprefix('path: ')}") from error
    return SavedState(name, arguments, tree)


def _packed(value: Any, name: str, tensors: Params) -> Any:
    """The tree in terms of JSON. Each tensor is the name that it gets in ``tensors``, with its strides: convolutions
    give other bits on tensors that are laid out differently.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach()
        strides = None if overlapping(value) else value.stride()
        tensors[name] = value.cpu().contiguous()
        return {"tensor": name, "strides": strides}
    if isinstance(value, Mapping):
        return {
            "dict": {k: _packed(v, f"{name}.{k}".lstrip("."), tensors) for k, v in value.items()}
        }
    if isinstance(value, list | tuple):
        return [_packed(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]
    return value


def _unpacked(value: Any, tensors: Params) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {key: _unpacked(item, tensors) for key, item in value["dict"].items()}
    # Copied in any case: memory that belongs to a file's bytes may not be aligned.
    saved, strides = tensors[value["tensor"]], value["strides"]
    like = saved if strides is None else saved.new_empty_strided(saved.shape, strides)
    return torch.empty_like(like).copy_(saved)


def _checksum(arguments: Mapping[str, str], text: bytes, tensors: Params) -> str:
    texts = described("tensors", dict(sorted(tensors.items())))
    return checksum([json.dumps(dict(arguments)), text, json.dumps(texts)])
