"""D1: the teacher's data, from whatever form it comes in to checked batches of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from itertools import count
from typing import Any, TypeAlias, cast

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from phiopt._randomness import at_end, begun_anew
from phiopt._transforms import plain

Source: TypeAlias = tuple[Tensor, Tensor] | Dataset[Any] | DataLoader[Any]
"""What a user may give as data: ``(inputs, targets)``, a map-style data set of such pairs, or a
loader of batches.
"""

Batch: TypeAlias = tuple[Tensor, Tensor]

SPREAD = 12
"""Examples of a map-style data set that are looked at, evenly spread: the first ones of a sorted set have
one label."""

Agree: TypeAlias = Callable[[Batch | None, Exception | None], Exception | None]


class Data:
    """Batches ``(inputs, targets)`` of D1, checked, on one device, floating tensors in one dtype.

    Args:
        source: ``(inputs, targets)`` of one length; a map-style ``Dataset`` of pairs; or a
            ``DataLoader``, whose own batches are used in its own order, again and again; each pass
            starts its own workers, also with ``persistent_workers``. Never modified.
        device: Where batches go.
        dtype: What floating inputs and targets become. Integer inputs stay, integer targets become
            int64.
        name: What errors call it; default "data".

    Raises:
        ValueError: Empty data, lengths that differ, NaN or infinity.
        TypeError: Another kind of source, or parts that are not tensors.

    Tensors are checked whole at once, a data set or loader batch by batch as it is read.

        >>> x, y = torch.randn(5, 3), torch.arange(5)
        >>> Data((x, y), torch.device("cpu"), torch.float32).example[0].shape
        torch.Size([5, 3])
    """

    def __init__(
        self, source: Source, device: torch.device, dtype: torch.dtype, name: str = "data"
    ) -> None:
        self._device, self._dtype, self._name = device, dtype, name
        self._classes: int | None = None
        self._outputs: int | None = None
        self._repeatable = isinstance(source, (tuple, list, TensorDataset))
        self._agree: Agree = lambda batch, error: error
        self.error: Exception | None = None
        self.length: int | None = None  # examples, where that is known
        self._spread: Callable[[], Batch] | None = None
        self._read = self._reader(source)

    def expect_classes(self, classes: int, outputs: int | None = None) -> None:
        """From here on targets must be class indices 0 ... ``classes`` - 1.

        With ``outputs``, which are the student's, labels that are no index of these either may be
        there too: they mark what the user's loss leaves out, such as -100 and 255.

        Raises ``ValueError`` for a label outside, ``TypeError`` for targets that are not integers.
        """
        self._classes, self._outputs = classes, outputs
        self._check_labels(self._example[1])

    @property
    def repeatable(self) -> bool:
        """Whether the same generator state always gives the same batch: tensors do, a data set may
        transform at random, a loader goes on.
        """
        return self._repeatable

    @property
    def example(self) -> Batch:
        """A first batch, to infer shapes from; a loader gives it again as its first."""
        return self._example

    def spread(self) -> Batch:
        """A batch to check derivatives on: of a data set, which is read now, twelve examples spread over
        it; else the first.
        """
        return self._example if self._spread is None else self._spread()

    def batch(self, size: int | None, generator: Generator) -> Batch:
        """``size`` different examples drawn by ``generator``; None, or no less than there are: all,
        in their order.

        A loader gives its next batch, whatever the ``size``; None is one whole pass. What reading
        raises goes through, and is kept as ``error``.
        """
        found, self.error = None, None
        try:
            found = self._read(size, generator)
        except Exception as error:
            self.error = error
        self.error = self._agree(found, self.error)
        if self.error is not None or found is None:
            raise self.error or RuntimeError("data: gave no batch")
        return found

    def agreeing(self, agree: Agree) -> Data:
        """The same data, where ``agree`` says of each batch, or of the error in its place, which
        error there is: other processes may know of one.
        """
        other = copy(self)
        other._agree = agree
        return other

    def _reader(self, source: Any) -> Callable[[int | None, Generator], Batch]:
        if isinstance(source, DataLoader):
            return self._from_loader(source)
        if isinstance(source, TensorDataset):
            source = source.tensors
        if isinstance(source, Dataset):
            return self._from_dataset(source)
        if isinstance(source, (tuple, list)):
            return self._from_tensors(source)
        raise TypeError(_no_source(self._name, source))

    def _from_tensors(self, pair: Any) -> Callable[[int | None, Generator], Batch]:
        inputs, targets = self._example = self._checked(pair)
        self.length = len(inputs)

        def read(size: int | None, generator: Generator) -> Batch:
            index = _draw(len(inputs), size, generator)
            return (inputs, targets) if index is None else (inputs[index], targets[index])

        return read

    def _from_dataset(self, dataset: Any) -> Callable[[int | None, Generator], Batch]:
        if isinstance(dataset, IterableDataset):
            raise TypeError(f"{self._name}: got an IterableDataset, wrap it in a DataLoader")
        if not hasattr(dataset, "__len__"):
            raise TypeError(f"{self._name}: {type(dataset).__name__} has no len(), must have one")
        if len(dataset) == 0:
            raise ValueError(f"{self._name}: empty, at least one example is needed")

        def load(index: range | list[int]) -> Batch:
            items = [dataset[i] for i in index]
            if not all(map(_paired, items)):
                odd = next(item for item in items if not _paired(item))
                raise TypeError(
                    f"{self._name}: an item of the data set is {_kind(odd)}, each must be a pair "
                    "(input, target); a DataLoader with a collate_fn can make batches of such pairs"
                )
            if not isinstance(items[0][0], Tensor):
                raise TypeError(
                    f"{self._name}: the data set's inputs are {type(items[0][0]).__name__}, must be "
                    "tensors: give it a transform such as torchvision.transforms.ToTensor()"
                    + _several(items[0][0])
                )
            try:
                batch = default_collate(items)
            except (RuntimeError, TypeError) as error:
                raise TypeError(
                    f"{self._name}: examples do not stack into a batch: {error}"
                ) from error
            return self._checked(batch)

        def read(size: int | None, generator: Generator) -> Batch:
            index = _draw(len(dataset), size, generator)
            return load(range(len(dataset)) if index is None else index.tolist())

        self.length = len(dataset)
        self._example = load(range(min(len(dataset), 2)))
        few = min(len(dataset), SPREAD)
        self._spread = lambda: load([i * (len(dataset) - 1) // max(few - 1, 1) for i in range(few)])
        return read

    def _from_loader(self, given: DataLoader[Any]) -> Callable[[int | None, Generator], Batch]:
        loader = begun_anew(given)
        passes, number = count(1), 0
        batches: Iterator[Any] = iter(())
        again: Batch | None = None

        def begin() -> Iterator[Any]:
            nonlocal number
            number = next(passes)
            at_end(rest)
            return iter(loader)

        def rest() -> None:
            nonlocal batches, again
            batches, again = iter(()), None  # whose workers end with it

        def following(batches: Iterator[Any]) -> Batch | None:
            pair = _next(self._name, batches)
            return None if pair is None else self._checked(pair)

        def first(batches: Iterator[Any]) -> Batch:
            batch = following(batches)
            if batch is None:
                raise ValueError(
                    f"{self._name}: the loader is empty, at least one batch is needed"
                    if number == 1
                    else f"{self._name}: the loader was empty on pass {number}, must give its batches "
                    "again"
                )
            return batch

        batches = begin()
        self._example = again = first(batches)

        def read(size: int | None, generator: Generator) -> Batch:
            nonlocal batches, again
            if size is None:
                whole = begin()
                parts = [first(whole)]
                while (batch := following(whole)) is not None:
                    parts.append(batch)
                return cast(
                    Batch, tuple(map(_joined, ("inputs", "targets"), zip(*parts, strict=True)))
                )
            found, again = again, None
            try:
                found = found or following(batches)
                if found is None:
                    batches = begin()
                    found = first(batches)
            except Exception:
                batches = iter(())  # what was under way is lost
                raise
            return found

        return read

    def _checked(self, pair: Any) -> Batch:
        inputs, targets = (plain(self._name, part) for part in check_pair(self._name, pair))
        if len(inputs) == 0:
            raise ValueError(f"{self._name}: empty, at least one example is needed")
        for name, part in (("inputs", inputs), ("targets", targets)):
            if part.is_floating_point() and not part.isfinite().all():
                raise ValueError(f"{self._name}: {name} hold NaN or infinity, must be finite")
        if targets.is_complex():
            raise TypeError(f"{self._name}: targets are {targets.dtype}, must be real")
        self._check_labels(targets)
        targets = targets if targets.is_floating_point() else targets.long()
        return self._placed("inputs", inputs), self._placed("targets", targets)

    def _check_labels(self, targets: Tensor) -> None:
        if self._classes is None:
            return
        if targets.is_floating_point():
            raise TypeError(
                f"{self._name}: targets are {targets.dtype}, must be integer class indices "
                "(give loss= for other targets)"
            )
        teachers = f"the teacher has {self._classes} classes"
        if self._outputs is None:
            check_range(self._name, targets, self._classes, teachers)
            return
        unclear = targets[(targets >= self._classes) & (targets < self._outputs)]
        if unclear.numel():
            raise ValueError(
                f"{self._name}: label {int(unclear[0])}, must lie in 0 ... {self._classes - 1}, "
                f"{teachers}; a label that marks what loss= leaves out must be negative or at least "
                f"{self._outputs}, the student has so many outputs"
            )

    def _placed(self, name: str, part: Tensor) -> Tensor:
        dtype = self._dtype if part.is_floating_point() else part.dtype
        placed = part.to(self._device, dtype)
        if placed.dtype != part.dtype and not placed.isfinite().all():
            raise ValueError(
                f"{self._name}: {name} up to {float(part.abs().max()):.3g} do not fit into {dtype}, the "
                "models'; scale them"
            )
        return placed.clone() if placed.is_inference() else placed  # autograd refuses those


def _next(name: str, batches: Iterator[Any]) -> Any | None:
    """The next batch of a loader's pass, None after the last.

    A ``StopIteration`` that comes from the user's data set or ``collate_fn`` looks like the end of the
    pass; it is told by the functions that it came through.

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


def check_source(name: str, source: Any) -> None:
    """Refuse, by ``name``, what is no data at all, before any of it is read."""
    if isinstance(source, (tuple, list)):
        check_pair(name, source)
    elif isinstance(source, type) or not isinstance(source, (Dataset, DataLoader)):
        raise TypeError(_no_source(name, source))


def _no_source(name: str, source: Any) -> str:
    return (
        f"{name}: got {type(source).__name__}, must be (inputs, targets) tensors, a Dataset or a "
        "DataLoader"
    )


def check_range(name: str, labels: Tensor, classes: int, why: str) -> None:
    """Refuse, by ``name``, labels that are not in 0 ... ``classes`` - 1, and none at all."""
    if labels.numel() == 0:
        raise ValueError(f"{name}: targets of shape {tuple(labels.shape)} hold no label")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"{name}: labels from {low} to {high}, must lie in 0 ... {classes - 1}, {why}. Labels that "
            "mark what to leave out, such as -100 and 255, need a loss that leaves it out: give "
            "loss= (docs/gotchas.md), or take these examples out of the data"
        )


def _several(parts: object) -> str:
    """What to do where there are several inputs."""
    several = isinstance(parts, dict) or (isinstance(parts, tuple | list) and len(parts) > 1)
    how = "; several inputs are joined to one tensor, which a wrapper of both models splits"
    return how if several else ""


def check_pair(name: str, pair: Any) -> Batch:
    """Inputs and targets, if ``pair`` is such: plain tensors with as many examples; errors call it
    ``name``.
    """
    if not _paired(pair):
        raise TypeError(
            f"{name}: got {_kind(pair)}, must be a pair (inputs, targets){_several(pair)}"
        )
    for which, part in zip(("inputs", "targets"), pair, strict=True):
        if not isinstance(part, Tensor):
            raise TypeError(
                f"{name}: {which} are {type(part).__name__}, must be a Tensor{_several(part)}"
            )
        if part.is_meta or part.is_nested or part.layout != torch.strided:
            kind = "on meta" if part.is_meta else f"nested or {part.layout}"
            raise TypeError(f"{name}: {which} are {kind}, must be plain tensors of numbers")
        if part.dim() == 0:
            raise ValueError(f"{name}: {which} are a single number, must have a batch axis")
    inputs, targets = pair
    if len(inputs) != len(targets):
        raise ValueError(
            f"{name}: {len(inputs)} inputs and {len(targets)} targets, must be as many"
        )
    return inputs, targets


def _paired(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2


def _kind(value: Any) -> str:
    return f"{len(value)} parts" if isinstance(value, (tuple, list)) else type(value).__name__


def _joined(name: str, parts: tuple[Tensor, ...]) -> Tensor:
    """The batches of one pass as one."""
    try:
        return torch.cat(parts)
    except RuntimeError as error:
        shapes = sorted({tuple(part.shape[1:]) for part in parts})
        raise ValueError(
            f"data: the loader's {name} are of shapes {shapes} in different batches, must be alike "
            "to go through at once: give the solver a batch_size"
        ) from error


def _draw(length: int, size: int | None, generator: Generator) -> Tensor | None:
    """Indices of a batch without repeats, on the generator's device; None for all."""
    if size is None or size >= length:
        return None
    return torch.randperm(length, generator=generator, device=generator.device)[:size]
