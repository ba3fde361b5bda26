"""Check that the processes of a group solve the same problem: the same settings, models and batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from phiopt._described import checksum, described
from phiopt._inputs import entries_of
from phiopt.data import Batch, Data
from phiopt.distributed.exchange import LostError, all_gather_text


class ElsewhereError(RuntimeError):
    """Another process has failed, and all processes know it."""


class Report(NamedTuple):
    """A message of a process to the others: its failure, if it has failed, and descriptions of its values."""

    failure: str | None
    values: dict[str, str]


def check_replicas(group: ProcessGroup, values: Mapping[str, object], device: torch.device) -> None:
    """Refuse, in all processes alike, values that differ between the processes.

    Processes with different parameters, data, settings or seeds would each solve another problem and mix their
    gradients, or would wait for each other for ever.

    Args:
        group: The processes. All call this function together.
        values: The values that must be the same in all processes, by their names in errors.
        device: The device on which the processes exchange tensors.

    Raises:
        ValueError: A value differs; the message has its name.
        ElsewhereError: Another process has failed before it came here (see `failing_together`).
    """
    own = {name: fingerprint(value) for name, value in values.items()}
    reports = _exchanged(group, device, Report(None, own))
    failures = [report.failure for report in reports if report.failure]
    if failures:
        raise ElsewhereError(f"process_group: {'; '.join(failures)}")
    _check_equal(reports)


def replicated(data: Data, group: ProcessGroup, device: torch.device) -> Data:
    """The same data, whose batches are compared between the processes. If a process fails to read, or reads another
    batch, all processes raise an error.
    """

    def compared(batch: Batch | None, error: Exception | None) -> Exception | None:
        tensors = {i: entries_of(part) for i, part in enumerate(batch or ())}
        sketches = [(i, key, _sketch(x)) for i, part in tensors.items() for key, x in part.items()]
        failure = None if error is None else "reading failed"
        reports = _exchanged(group, device, Report(failure, {"a batch": str(sketches)}))
        if any(report.failure for report in reports):
            return error or RuntimeError("data: reading failed in another process")
        try:
            _check_equal(reports)
        except ValueError as differs:
            return differs
        return None

    return data.replicated(compared)


@contextmanager
def failing_together(group: ProcessGroup | None, device: torch.device) -> Iterator[None]:
    """Inside this context a failure is reported to the other processes, which wait in `check_replicas`.

    `check_replicas` must be the first exchange between the processes in the block. An error after it must occur in
    all processes. Exceptions are raised as they are. In a process that did not fail `check_replicas` raises
    `ElsewhereError`, with the rank that failed and its exception.
    """
    try:
        yield
    except (ElsewhereError, LostError):
        raise
    except Exception as error:
        if group is not None:
            rank = dist.get_global_rank(group, dist.get_rank(group))
            failure = f"rank {rank} failed with {type(error).__name__}: {error}"
            _exchanged(group, device, Report(failure, {}))
        raise


def fingerprint(value: object) -> str:
    """A checksum of a value, as far as the value can be described. Processes that do the same have the same
    checksum.
    """
    value = value.detach() if isinstance(value, Tensor) else value
    return checksum(map(str, described("it", value, attributes=False).items()))


def _exchanged(group: ProcessGroup, device: torch.device, own: Report) -> list[Report]:
    """The reports of all processes, by rank."""
    return [Report(*json.loads(text)) for text in all_gather_text(json.dumps(own), group, device)]


def _check_equal(reports: list[Report]) -> None:
    for name in {name: None for report in reports for name in report.values}:
        if len({report.values.get(name) for report in reports}) > 1:
            raise ValueError(
                f"process_group: {name} differs between the processes; all must be given the same "
                "models, data (no DistributedSampler: batches are shared out here), settings and seed"
            )


def _sketch(values: Tensor) -> list[float]:
    """Three numbers that differ between batches. In every step they cost less than a checksum of all bytes."""
    numbers = values.detach().double().reshape(-1)
    order = torch.arange(1, numbers.numel() + 1, dtype=numbers.dtype, device=numbers.device)
    return torch.stack([numbers.sum(), numbers @ numbers, numbers @ order.rsqrt()]).tolist()
