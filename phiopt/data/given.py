"""Data as a user gives it, and checks that need no reading."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Source: TypeAlias = tuple[Tensor, Tensor] | Dataset[Any] | DataLoader[Any]
"""What a user may give as data: ``(inputs, targets)``, a map-style data set of such pairs, or a loader of batches."""

Batch: TypeAlias = tuple[Tensor, Tensor]


def check_source(name: str, source: Any) -> None:
    """Refuse, by ``name``, an object that is no source of data, before anything is read."""
    if isinstance(source, (tuple, list)):
        check_pair(name, source)
    elif isinstance(source, type) or not isinstance(source, (Dataset, DataLoader)):
        raise TypeError(no_source(name, source))


def no_source(name: str, source: Any) -> str:
    return (
        f"{name}: got {type(source).__name__}, must be (inputs, targets) tensors, a Dataset or a "
        "DataLoader"
    )


def check_range(name: str, labels: Tensor, classes: int, why: str) -> None:
    """Refuse, by ``name``, labels outside of 0 ... ``classes`` - 1, and targets without a label."""
    if labels.numel() == 0:
        raise ValueError(f"{name}: targets of shape {tuple(labels.shape)} hold no label")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"{name}: labels from {low} to {high}, must lie in 0 ... {classes - 1}, {why}. Labels that "
            "mark what to leave out, such as -100 and 255, need a loss that leaves it out: give "
            "loss= (docs/gotchas.md), or remove these examples from the data"
        )


def check_pair(name: str, pair: Any) -> Batch:
    """Inputs and targets. A ``pair`` that is not two plain tensors with the same number of examples is refused by
    ``name``.
    """
    if not paired(pair):
        raise TypeError(
            f"{name}: got {kind_of(pair)}, must be a pair (inputs, targets){several_inputs(pair)}"
        )
    for which, part in zip(("inputs", "targets"), pair, strict=True):
        if not isinstance(part, Tensor):
            raise TypeError(
                f"{name}: {which} are {type(part).__name__}, must be a Tensor{several_inputs(part)}"
            )
        if part.is_meta or part.is_nested or part.layout != torch.strided:
            kind = "on meta" if part.is_meta else f"nested or {part.layout}"
            raise TypeError(f"{name}: {which} are {kind}, must be plain tensors of numbers")
        if part.dim() == 0:
            raise ValueError(f"{name}: {which} are a single number, must have a batch axis")
    inputs, targets = pair
    if len(inputs) != len(targets):
        raise ValueError(
            f"{name}: {len(inputs)} inputs and {len(targets)} targets, must be equally many"
        )
    return inputs, targets


def paired(value: Any) -> bool:
    """Whether ``value`` is a pair."""
    return isinstance(value, (tuple, list)) and len(value) == 2


def kind_of(value: Any) -> str:
    """What an error calls the value."""
    return f"{len(value)} parts" if isinstance(value, (tuple, list)) else type(value).__name__


def several_inputs(parts: object) -> str:
    """Advice where there are several inputs."""
    several = isinstance(parts, dict) or (isinstance(parts, tuple | list) and len(parts) > 1)
    how = "; several inputs are joined to one tensor, which a wrapper of both models splits"
    return how if several else ""
