"""Batches read from tensors, from a map-style data set, or from a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any, Protocol, TypeAlias

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from phiopt._inputs import Inputs, entries_of
from phiopt._randomness import at_end, begun_anew
from phiopt.data.collate import collated
from phiopt.data.given import Batch, is_list_of_items, is_map_style, no_source

SPREAD = 12
"""Examples of a map-style data set on which derivatives are checked. They are evenly spread, because the first
examples of a sorted set have the same label."""

Checked: TypeAlias = Callable[[Any], Batch]
"""From a batch as a user's source gives it to a checked batch."""


class Reader(Protocol):
    """A source that is open for reading."""

    example: Batch
    """A first batch, to infer shapes from."""
    length: int | None
    """The number of examples; None if it is not known."""

    def spread(self) -> Batch:
        """Examples evenly spread over the source if that is possible, else the first batch."""
        ...

    def read(self, size: int | None, generator: Generator) -> Batch:
        """See `Data.batch`."""
        ...


def reader_of(name: str, source: Any, checked: Checked) -> Reader:
    """A reader of the source. Errors call the source ``name``."""
    if isinstance(source, DataLoader):
        return LoaderReader(name, source, checked)
    if isinstance(source, TensorDataset):
        source = source.tensors
    if isinstance(source, Mapping | tuple | list) and not is_list_of_items(source):
        return TensorReader(source, checked)
    if isinstance(source, Dataset) or is_map_style(source):
        return DatasetReader(name, source, checked)
    raise TypeError(no_source(name, source))


class TensorReader:
    """``(inputs, targets)``, or a mapping with labels, checked at once."""

    def __init__(self, whole: Any, checked: Checked) -> None:
        self.example = checked(whole)
        self.length: int | None = len(self.example[0])

    def spread(self) -> Batch:
        return self.example

    def read(self, size: int | None, generator: Generator) -> Batch:
        inputs, targets = self.example
        index = _draw(len(inputs), size, generator)
        return (inputs, targets) if index is None else (inputs[index], targets[index])


class DatasetReader:
    """A map-style data set of pairs or mappings, checked as it is read."""

    def __init__(self, name: str, dataset: Any, checked: Checked) -> None:
        if isinstance(dataset, IterableDataset):
            raise TypeError(f"{name}: got an IterableDataset, wrap it in a DataLoader")
        if not isinstance(dataset, Sized):
            raise TypeError(f"{name}: {type(dataset).__name__} has no len(), must have one")
        if len(dataset) == 0:
            raise ValueError(f"{name}: empty, at least one example is needed")
        self.name, self.checked = name, checked
        self.dataset: Any = dataset
        self.length: int | None = len(dataset)
        self.example = self._load(range(min(len(dataset), 2)))

    def spread(self) -> Batch:
        last, few = len(self.dataset) - 1, min(len(self.dataset), SPREAD)
        return self._load([i * last // max(few - 1, 1) for i in range(few)])

    def read(self, size: int | None, generator: Generator) -> Batch:
        index = _draw(len(self.dataset), size, generator)
        return self._load(range(len(self.dataset)) if index is None else index.tolist())

    def _load(self, index: range | list[int]) -> Batch:
        return self.checked(collated(self.name, [self.dataset[i] for i in index]))


class LoaderReader:
    """A loader of batches, read again and again. At the end of a `preserved_randomness` its workers end, and the next
    pass begins anew.
    """

    length: int | None = None

    def __init__(self, name: str, loader: DataLoader[Any], checked: Checked) -> None:
        self.name, self.checked, self.loader = name, checked, begun_anew(loader)
        self.passes = 0
        self._batches = self._begin()
        self.example = self._first(self._batches)
        self._unread: Batch | None = self.example
        """The first batch, until it is read."""

    def spread(self) -> Batch:
        return self.example

    def read(self, size: int | None, generator: Generator) -> Batch:
        if size is None:
            return self._whole_pass()
        batch, self._unread = self._unread, None
        try:
            batch = batch or self._following(self._batches)
            if batch is None:
                self._batches = self._begin()
                batch = self._first(self._batches)
        except Exception:
            self._batches = iter(())  # the rest of the pass is lost
            raise
        return batch

    def _whole_pass(self) -> Batch:
        batches = self._begin()
        parts = [self._first(batches)]
        while (batch := self._following(batches)) is not None:
            parts.append(batch)
        inputs, targets = zip(*parts, strict=True)
        return _joined("inputs", inputs), _joined("targets", targets)

    def _begin(self) -> Iterator[Any]:
        self.passes += 1
        at_end(self._rest)
        return iter(self.loader)

    def _rest(self) -> None:
        self._batches, self._unread = iter(()), None  # the workers end with their iterator

    def _first(self, batches: Iterator[Any]) -> Batch:
        batch = self._following(batches)
        if batch is None:
            raise ValueError(
                f"{self.name}: the loader is empty, at least one batch is needed"
                if self.passes == 1
                else f"{self.name}: the loader was empty on pass {self.passes}, must give its batches "
                "again"
            )
        return batch

    def _following(self, batches: Iterator[Any]) -> Batch | None:
        batch = _next(self.name, batches)
        return None if batch is None else self.checked(batch)


def _next(name: str, batches: Iterator[Any]) -> Any | None:
    """The next batch of a loader's pass, None after the last.

    A ``StopIteration`` that the user's data set or ``collate_fn`` raises looks like the end of the pass. The functions
    in its traceback show where it was raised.

    Raises:
        RuntimeError: From such a ``StopIteration``.
    """
    try:
        return next(batches)
    except StopIteration as stop:
        step = stop.__traceback__ and stop.__traceback__.tb_next
        while step is not None:
            code, module = step.tb_frame.f_code, str(step.tb_frame.f_globals.get("__name__"))
            if code.co_name != "__next__" and not module.startswith("torch.utils.data."):
                raise RuntimeError(
                    f"{name}: {code.co_name} of the loader's data raised StopIteration, which would "
                    "end the pass unseen; raise another exception there"
                ) from stop
            step = step.tb_next
        return None


def _joined(which: str, parts: tuple[Inputs, ...]) -> Inputs:
    """The batches of one pass as one."""
    first, entries = parts[0], [entries_of(part) for part in parts]
    if any(set(part) != set(entries[0]) for part in entries):
        raise ValueError(
            f"data: the loader's {which} have different entries in different batches, must have the same to be used "
            "all at once: give the solver a batch_size"
        )
    if isinstance(first, Tensor):
        return _whole(which, [part[""] for part in entries])
    for key in entries[0]:
        first = first.with_entry(key, _whole(f"{which} {key}", [part[key] for part in entries]))
    return first


def _whole(which: str, parts: list[Tensor]) -> Tensor:
    try:
        return torch.cat(parts)
    except RuntimeError as error:
        shapes = sorted({tuple(part.shape[1:]) for part in parts})
        raise ValueError(
            f"data: the loader's {which} are of shapes {shapes} in different batches, must be of one shape "
            "to be used all at once: give the solver a batch_size"
        ) from error


def _draw(length: int, size: int | None, generator: Generator) -> Tensor | None:
    """Indices of a batch without repeats, on the generator's device; None for all."""
    if size is None or size >= length:
        return None
    return torch.randperm(length, generator=generator, device=generator.device)[:size]
