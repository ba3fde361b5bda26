"""Batches of tensors as a user gives them: tensors, arrays, and tuples or mappings of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from phiopt._inputs import Inputs, Several
from phiopt._shown import shown

LABELS = ("labels", "label", "label_ids")
"""Names of the entry of a mapping that holds the targets."""

Array: TypeAlias = Tensor | np.ndarray[Any, Any]


GivenInputs: TypeAlias = Array | Sequence[Array] | Mapping[str, Any] | Several
"""What a user may give as a batch of a model's inputs."""


def inputs_of(name: str, given: Any) -> Inputs:
    """A batch of inputs. Of a mapping the labels are left out, so that a whole batch of data may be given.

    Raises:
        TypeError, ValueError: It is no such batch; the message calls it ``name``.
    """
    if isinstance(given, Mapping):
        given = {key: value for key, value in given.items() if key not in LABELS}
    elif not isinstance(given, Tensor | np.ndarray | Several) and not _arrays(given):
        parts = given if isinstance(given, tuple | list) else ()
        mixed = any(isinstance(x, Tensor | np.ndarray) for x in parts)
        kinds = f"a {type(given).__name__} of {', '.join(type(x).__name__ for x in parts)}"
        raise TypeError(
            f"{name}: got {kinds if mixed else shown(given)}, must be a Tensor, an array, or a tuple or mapping of "
            "several"
        )
    return tensors_of(name, "inputs", given)


def _arrays(part: Any) -> bool:
    """Whether the part is several tensors or arrays."""
    if not isinstance(part, tuple | list) or not part:
        return False
    return all(isinstance(x, Tensor | np.ndarray) for x in part)


def tensors_of(name: str, which: str, part: Any) -> Inputs:
    """The inputs or the targets of a batch that a user gives: a tensor or an array, or several of them in a mapping or,
    of inputs, in a tuple.

    Args:
        name: What errors call the argument.
        which: What errors call this part of it: "inputs" or "targets".
        part: Never modified.

    Raises:
        TypeError, ValueError: It is of another kind; the message names the entry and the rule.
    """
    if isinstance(part, Several):
        return part
    if isinstance(part, Mapping):
        if not part or not all(isinstance(key, str) for key in part):
            raise TypeError(
                f"{name}: {which} are a mapping of {list(part)}, must have one entry or more, with names"
            )
        entries = {k: _tensor(name, f"entry {k!r} of the {which}", v) for k, v in part.items()}
        return Several(named=entries)
    if which == "inputs" and _arrays(part):
        return Several(tuple(_tensor(name, f"input {i}", x) for i, x in enumerate(part)))
    if not isinstance(part, Tensor | np.ndarray):
        beside = "a tuple or mapping of several" if which == "inputs" else "a mapping of several"
        raise TypeError(
            f"{name}: {which} are {type(part).__name__}, must be a Tensor, an array, or {beside}"
        )
    return _tensor(name, which, part)


def _tensor(name: str, which: str, value: Any) -> Tensor:
    """A plain tensor of numbers with a batch axis. A list of numbers, as a tokenizer gives it, becomes a tensor."""
    are = "is" if " " in which else "are"
    if isinstance(value, np.ndarray):
        value = _of_array(name, which, value)
    elif isinstance(value, list | tuple):
        value = _of_list(name, which, value)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}: {which} {are} {type(value).__name__}, must be a Tensor or an array"
        )
    if value.is_meta or value.is_nested or value.layout != torch.strided:
        kind = "on meta" if value.is_meta else f"nested or {value.layout}"
        raise TypeError(f"{name}: {which} {are} {kind}, must be plain tensors of numbers")
    if value.dim() == 0:
        raise ValueError(f"{name}: {which} {are} a single number, must have a batch axis")
    return value


def _of_array(name: str, which: str, array: np.ndarray[Any, Any]) -> Tensor:
    """The numbers of an array. A tensor can share only memory that may be written to."""
    try:
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError):
        if array.dtype.hasobject or array.dtype.kind not in "biufc":
            raise TypeError(
                f"{name}: {which} have NumPy's dtype {array.dtype}, must be numbers"
            ) from None
        return torch.from_numpy(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("=")))


def _of_list(name: str, which: str, values: Any) -> Tensor:
    try:
        return torch.tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name}: {which} is a {type(values).__name__} that does not make a tensor ({error}); texts of different "
            "lengths are padded by the tokenizer (padding=True), or by a DataLoader's collate_fn"
        ) from error
