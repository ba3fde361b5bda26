"""Batches read from tensors, from a map-style data set, or from a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from phiopt._randomness import at_end, begun_anew
from phiopt.data.given import Batch, kind_of, no_source, paired, several_inputs

SPREAD = 12
"""Examples of a map-style data set on which derivatives are checked. They are evenly spread, because the first
examples of a sorted set have the same label."""

Checked: TypeAlias = Callable[[Any], Batch]
"""From a pair of a user's source to a checked batch."""


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
    if isinstance(source, Dataset):
        return DatasetReader(name, source, checked)
    if isinstance(source, (tuple, list)):
        return TensorReader(source, checked)
    raise TypeError(no_source(name, source))


class TensorReader:
    """``(inputs, targets)``, checked at once."""

    def __init__(self, pair: Any, checked: Checked) -> None:
        self.example = checked(pair)
        self.length: int | None = len(self.example[0])

    def spread(self) -> Batch:
        return self.example

    def read(self, size: int | None, generator: Generator) -> Batch:
        inputs, targets = self.example
        index = _draw(len(inputs), size, generator)
        return (inputs, targets) if index is None else (inputs[index], targets[index])


class DatasetReader:
    """A map-style data set of pairs, checked as it is read."""

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
        items = [self.dataset[i] for i in index]
        if not all(map(paired, items)):
            bad = next(item for item in items if not paired(item))
            raise TypeError(
                f"{self.name}: an item of the data set is {kind_of(bad)}, each must be a pair "
                "(input, target); a DataLoader with a collate_fn can make batches of such pairs"
            )
        if not isinstance(items[0][0], Tensor):
            raise TypeError(
                f"{self.name}: the data set's inputs are {type(items[0][0]).__name__}, must be "
                "tensors: give it a transform such as torchvision.transforms.ToTensor()"
                + several_inputs(items[0][0])
            )
        try:
            batch = default_collate(items)
        except (RuntimeError, TypeError) as error:
            raise TypeError(f"{self.name}: examples do not stack into a batch: {error}") from error
        return self.checked(batch)


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
        whole = map(_joined, ("inputs", "targets"), zip(*parts, strict=True))
        return cast(Batch, tuple(whole))

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
        pair = _next(self.name, batches)
        return None if pair is None else self.checked(pair)


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


def _joined(name: str, parts: tuple[Tensor, ...]) -> Tensor:
    """The batches of one pass as one."""
    try:
        return torch.cat(parts)
    except RuntimeError as error:
        shapes = sorted({tuple(part.shape[1:]) for part in parts})
        raise ValueError(
            f"data: the loader's {name} are of shapes {shapes} in different batches, must be of one shape "
            "to be used all at once: give the solver a batch_size"
        ) from error


def _draw(length: int, size: int | None, generator: Generator) -> Tensor | None:
    """Indices of a batch without repeats, on the generator's device; None for all."""
    if size is None or size >= length:
        return None
    return torch.randperm(length, generator=generator, device=generator.device)[:size]
