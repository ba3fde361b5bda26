"""Data as a user gives it, and checks that need no reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from phiopt._given import LABELS, Array, tensors_of
from phiopt._inputs import Inputs, Targets, entries_of

Source: TypeAlias = (
    tuple[Array | tuple[Array, ...] | Mapping[str, Array], Array | Mapping[str, Array]]
    | Mapping[str, Any]
    | list[Any]
    | Dataset[Any]
    | DataLoader[Any]
)
"""What a user may give as data: ``(inputs, targets)``, a mapping with labels, a list or map-style data set of such
pairs or mappings, or a loader of batches. See docs/data.md."""

Batch: TypeAlias = tuple[Inputs, Targets]


def check_source(name: str, source: Any) -> None:
    """Refuse, by ``name``, an object that is no source of data, before anything is read."""
    if isinstance(source, Iterator):
        raise TypeError(
            f"{name}: got {type(source).__name__}, which can be read only once; must be a list of what it yields, a "
            "Dataset or a DataLoader, for data are read again and again"
        )
    if isinstance(source, Mapping | tuple | list):
        if not is_list_of_items(source):
            batch_of(name, source)
    elif not is_map_style(source) and not isinstance(source, DataLoader | Dataset):
        raise TypeError(no_source(name, source))


def no_source(name: str, source: Any) -> str:
    return (
        f"{name}: got {type(source).__name__}, must be (inputs, targets) tensors, a mapping with labels, a list of "
        "pairs, a Dataset or a DataLoader"
    )


def is_map_style(source: Any) -> bool:
    """Whether the source is a data set whose examples are read by their number."""
    if isinstance(source, type | DataLoader | Tensor | np.ndarray | str | bytes | Mapping):
        return False
    if isinstance(source, nn.Module):  # a Sequential has items too
        return False
    return hasattr(source, "__getitem__") and hasattr(source, "__len__")


def is_list_of_items(source: Any) -> bool:
    """Whether the source is a list of examples: of pairs, or of mappings with labels."""
    if not isinstance(source, list) or not source:
        return False
    return all(map(paired, source)) or all(map(labelled, source))


def paired(value: Any) -> bool:
    """Whether ``value`` is a pair."""
    return isinstance(value, (tuple, list)) and len(value) == 2


def labelled(value: Any) -> bool:
    """Whether ``value`` is a mapping with labels."""
    return isinstance(value, Mapping) and any(name in value for name in LABELS)


def check_range(name: str, labels: Tensor, classes: int, why: str, hint: str = "") -> None:
    """Refuse, by ``name``, labels outside of 0 ... ``classes`` - 1, and targets without a label. ``hint`` is a sentence
    on labels that are too large.
    """
    if labels.numel() == 0:
        raise ValueError(f"{name}: targets of shape {tuple(labels.shape)} hold no label")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"{name}: labels from {low} to {high}, must lie in 0 ... {classes - 1}, {why}. "
            f"{hint if high >= classes else ''}Labels that "
            "mark what to leave out, such as -100 and 255, need a loss that leaves it out: give "
            "loss= (docs/gotchas.md), or remove these examples from the data"
        )


def batch_of(name: str, given: Any) -> Batch:
    """Inputs and targets. What is not a pair of plain tensors, or a mapping of plain tensors with labels, all with the
    same number of examples, is refused by ``name``.
    """
    if isinstance(given, Mapping):
        given = _split(name, given)
    if not paired(given):
        parts = isinstance(given, tuple | list) and len(given) > 1
        several = "; several inputs are one part, ((a, b), targets)" if parts else ""
        raise TypeError(
            f"{name}: got {kind_of(given)}, must be a pair (inputs, targets), or a mapping with labels{several}"
        )
    inputs, targets = tensors_of(name, "inputs", given[0]), tensors_of(name, "targets", given[1])
    lengths = {key or "inputs": len(x) for key, x in entries_of(inputs).items()}
    lengths |= {f"targets {key}".strip(): len(x) for key, x in entries_of(targets).items()}
    if len(set(lengths.values())) > 1:
        if isinstance(inputs, Tensor) and isinstance(targets, Tensor):
            raise ValueError(
                f"{name}: {len(inputs)} inputs and {len(targets)} targets, must be equally many"
            )
        listed = ", ".join(f"{key}: {length}" for key, length in lengths.items())
        raise ValueError(
            f"{name}: entries of different lengths ({listed}), must be equally many examples"
        )
    return inputs, targets


def kind_of(value: Any) -> str:
    """What an error calls the value."""
    return f"{len(value)} parts" if isinstance(value, (tuple, list)) else type(value).__name__


def _split(name: str, given: Mapping[str, Any]) -> tuple[Any, Any]:
    """Inputs and targets of a mapping, which is not changed."""
    labels = [key for key in LABELS if key in given]
    if len(labels) != 1:
        keys = ", ".join(map(str, given)) or "none"
        found = f"has {' and '.join(labels)}" if labels else "has no labels"
        raise TypeError(
            f"{name}: a mapping with the entries {keys} {found}, must have one of {', '.join(LABELS)} as targets; or "
            "give a pair (inputs, targets), either of which may be a mapping"
        )
    return {key: value for key, value in given.items() if key != labels[0]}, given[labels[0]]
