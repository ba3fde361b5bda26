"""Examples of a data set as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from phiopt._given import LABELS
from phiopt.data.given import kind_of, labelled, paired


def collated(name: str, items: Sequence[Any]) -> Any:
    """A pair or a mapping of batches, of examples that are pairs or mappings.

    Raises:
        TypeError: The examples are of another kind, or do not stack; the message calls the data ``name``.
    """
    bad = [item for item in items if not paired(item) and not labelled(item)]
    if bad:
        raise TypeError(
            f"{name}: an item of the data set is {kind_of(bad[0])}, each must be a pair (input, target), or a mapping "
            f"with one of {', '.join(LABELS)}; a DataLoader with a collate_fn can make batches of such pairs"
        )
    if all(map(labelled, items)):
        return _entries(name, items)
    if not all(map(paired, items)):
        raise TypeError(
            f"{name}: some items of the data set are pairs and some mappings, must be alike"
        )
    inputs, targets = zip(*items, strict=True)
    return _part(name, "inputs", inputs), _part(name, "targets", targets)


def _part(name: str, which: str, parts: Sequence[Any]) -> Any:
    """The inputs, or the targets, of all examples."""
    first = parts[0]
    if all(isinstance(part, Mapping) for part in parts):
        return _entries(name, parts)
    if isinstance(first, tuple | list) and all(isinstance(x, Tensor | np.ndarray) for x in first):
        if len({len(part) for part in parts}) > 1:
            raise TypeError(
                f"{name}: {which} of different examples have different numbers of parts"
            )
        return tuple(_stacked(name, "", column) for column in zip(*parts, strict=True))
    if which == "inputs" and not isinstance(first, Tensor | np.ndarray):
        raise TypeError(
            f"{name}: the data set's inputs are {type(first).__name__}, must be "
            "tensors: give it a transform such as torchvision.transforms.ToTensor()"
        )
    return _stacked(name, "", parts)


def _entries(name: str, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    for item in items:
        if set(item) != set(items[0]):
            differing = ", ".join(sorted(map(str, set(item) ^ set(items[0]))))
            raise TypeError(f"{name}: examples have different entries, {differing} is not in all")
    return {
        key: _stacked(name, f" in entry {key!r}", [item[key] for item in items]) for key in items[0]
    }


def _stacked(name: str, where: str, values: Sequence[Any]) -> Any:
    try:
        return default_collate([_owned(value) for value in values])
    except (RuntimeError, TypeError) as error:
        advice = "; a DataLoader with a collate_fn can pad them" if where else ""
        raise TypeError(
            f"{name}: examples do not stack into a batch{where}: {error}{advice}"
        ) from error


def _owned(value: Any) -> Any:
    """A tensor of a list of numbers, such as token numbers, and an array that may be written to. Anything else as it
    is.
    """
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        return value.copy()
    if not isinstance(value, list | tuple):
        return value
    try:
        return torch.tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return value
