"""D1, the teacher's data, as checked batches of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor
from torch.utils.data import TensorDataset

from phiopt._inputs import Inputs, Targets, dtypes_of, entries_of, mapped
from phiopt._shown import shown
from phiopt._transforms import plain
from phiopt.data.default_targets import LEFT_OUT, NextTokens, counted
from phiopt.data.given import Batch, Source, batch_of, check_range
from phiopt.data.readers import reader_of

Compare: TypeAlias = Callable[[Batch | None, Exception | None], Exception | None]
"""From a batch, or the error of reading it, to the error that is to be raised, or None."""


class Data:
    """Batches ``(inputs, targets)`` of D1, checked, on one device, floating tensors in one dtype.

    Args:
        source: ``(inputs, targets)`` of the same length, or a mapping with labels; a list or map-style ``Dataset`` of
            such examples; or a ``DataLoader``, whose batches are used in its order, again and again. Each pass starts
            new workers, also with ``persistent_workers``. Never modified.
        device: The device of the batches.
        dtype: The dtype of floating inputs and targets. Integer inputs stay as they are, integer targets become
            int64.
        name: What errors call the data; default "data".
        default_loss: Whether the targets are for cross-entropy. Labels of a causal language model are moved then; see
            `NextTokens`.

    Raises:
        ValueError: The data are empty, or hold NaN or infinity, or inputs and targets differ in length.
        TypeError: The source is of another kind, or a part of it is no tensor or array.

    Tensors are checked at once. A data set or loader is checked batch by batch, as it is read.

        >>> x, y = torch.randn(5, 3), torch.arange(5)
        >>> Data((x, y), torch.device("cpu"), torch.float32).example[0].shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        source: Source,
        device: torch.device,
        dtype: torch.dtype,
        name: str = "data",
        *,
        default_loss: bool = False,
    ) -> None:
        self._device, self._dtype, self._name = device, dtype, name
        self._classes: int | None = None
        self._outputs: int | None = None
        self._next_tokens = NextTokens() if default_loss else None
        self._repeatable = isinstance(source, (tuple, list, Mapping, TensorDataset))
        self._compare: Compare = lambda batch, error: error
        self.error: Exception | None = None
        self._reader = reader_of(name, source, self._checked)

    def expect_classes(self, classes: int, outputs: int | None = None) -> None:
        """From now on, refuse targets that are not class indices 0 ... ``classes`` - 1.

        With ``outputs``, the number of the student's outputs, labels that are no index of an output are allowed too.
        Such labels, as -100 and 255, mark what the user's loss leaves out.

        Raises:
            ValueError: A label is outside.
            TypeError: Targets are not integers.
        """
        self._classes, self._outputs = classes, outputs
        self._check_labels(*self.example)
        inputs, targets = self.example
        if isinstance(targets, Tensor) and counted(inputs, targets).numel() == 0:
            raise ValueError(
                f"{self._name}: no label of the first batch counts, all are {LEFT_OUT}"
            )

    @property
    def repeatable(self) -> bool:
        """Whether the same generator state always gives the same batch. It does with tensors. A data set may
        transform its examples at random, and a loader goes on to its next batch.
        """
        return self._repeatable

    @property
    def moved_labels(self) -> bool:
        """Whether labels were equal to the input's tokens, and are the next tokens now. See `NextTokens`."""
        return self._next_tokens is not None and self._next_tokens.moves

    @property
    def length(self) -> int | None:
        """The number of examples; None if it is not known."""
        return self._reader.length

    @property
    def example(self) -> Batch:
        """A first batch, to infer shapes from. A loader gives this batch again as its first."""
        return self._reader.example

    def spread(self) -> Batch:
        """A batch to check derivatives on. Of a data set it has twelve examples, evenly spread, which are read now;
        otherwise it is the first batch.
        """
        return self._reader.spread()

    def batch(self, size: int | None, generator: Generator) -> Batch:
        """``size`` different examples drawn by ``generator``. With ``size=None``, or if there are no more, all examples
        in their order.

        A loader gives its next batch, whatever the ``size``. With None it gives one whole pass. An exception of
        reading is raised, and kept as ``error``.
        """
        batch, self.error = None, None
        try:
            batch = self._reader.read(size, generator)
        except Exception as error:
            self.error = error
        self.error = self._compare(batch, self.error)
        if self.error is not None or batch is None:
            raise self.error or RuntimeError("data: gave no batch")
        return batch

    def replicated(self, compare: Compare) -> Data:
        """The same data. Each batch, or the error of reading it, goes to ``compare``, which gives the error to raise.
        That may be the error of another process.
        """
        other = copy(self)
        other._compare = compare
        return other

    def _checked(self, given: Any) -> Batch:
        inputs, targets = (
            mapped(partial(plain, self._name), part) for part in batch_of(self._name, given)
        )
        if len(inputs) == 0:
            raise ValueError(f"{self._name}: empty, at least one example is needed")
        for which, part in (("inputs", inputs), ("targets", targets)):
            for key, tensor in entries_of(part).items():
                self._check_finite(f"{which} {key}".strip(), tensor)
        if any(tensor.is_complex() for tensor in entries_of(targets).values()):
            raise TypeError(f"{self._name}: targets are {dtypes_of(targets)}, must be real")
        if self._next_tokens is not None:
            targets = self._next_tokens(self._name, inputs, targets)
        self._check_labels(inputs, targets)
        targets = mapped(lambda x: x if x.is_floating_point() else x.long(), targets)
        return self._placed("inputs", inputs), self._placed("targets", targets)

    def _check_finite(self, which: str, tensor: Tensor) -> None:
        """Refuse NaN and infinity. A mask that is added to scores may be -infinity."""
        if not tensor.is_floating_point():
            return
        wrong = tensor.isnan() if "mask" in which else ~tensor.isfinite()
        if wrong.any():
            raise ValueError(f"{self._name}: {which} hold NaN or infinity, must be finite")

    def _check_labels(self, inputs: Inputs, targets: Targets) -> None:
        if self._classes is None:
            return
        if not isinstance(targets, Tensor):
            raise TypeError(
                f"{self._name}: targets are a mapping of {', '.join(targets.named)}, must be one tensor of integer "
                "class indices (give loss=, which gets the mapping)"
            )
        if targets.is_floating_point():
            raise TypeError(
                f"{self._name}: targets are {targets.dtype}, must be integer class indices "
                "(give loss= for other targets)"
            )
        teachers = f"the teacher has {self._classes} classes"
        if self._outputs is None:
            labels = counted(inputs, targets)
            if labels.numel() or not targets.numel():
                hint = _of_student_classes(labels, self._classes)
                check_range(self._name, labels, self._classes, teachers, hint)
            return
        unclear = targets[(targets >= self._classes) & (targets < self._outputs)]
        if unclear.numel():
            raise ValueError(
                f"{self._name}: label {int(unclear[0])}, must lie in 0 ... {self._classes - 1}, "
                f"{teachers}; a label that marks what loss= leaves out must be negative or at least "
                f"{self._outputs}, the student has so many outputs"
            )

    def _placed(self, which: str, part: Inputs) -> Inputs:
        return mapped(partial(self._placed_tensor, which), part)

    def _placed_tensor(self, which: str, tensor: Tensor) -> Tensor:
        dtype = self._dtype if tensor.is_floating_point() else tensor.dtype
        placed = tensor.to(self._device, dtype)
        if placed.dtype != tensor.dtype and not (placed.isfinite() | ~tensor.isfinite()).all():
            raise ValueError(
                f"{self._name}: {which} up to {float(tensor.abs().max()):.3g} do not fit into {dtype}, the "
                "models'; scale them"
            )
        return placed.clone() if placed.is_inference() else placed  # autograd refuses those


def _of_student_classes(labels: Tensor, classes: int) -> str:
    """What to do with labels of classes that the teacher has not."""
    given = labels.unique().tolist()
    example = given if len(given) == classes and given[0] >= 0 else list(range(1, classes + 1))
    return (
        "The data of the teacher hold its own classes, numbered as its outputs: keep examples of new classes for the "
        "training after growth. If the labels number the student's outputs, number them as the teacher's, and say "
        f"with classes= which outputs of the student these are, such as classes={shown(example)}. "
    )
