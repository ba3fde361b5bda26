"""Whether the processes of a group solve one problem: the same settings, models and batches."""

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
from phiopt.data import Batch, Data
from phiopt.distributed.exchange import LostError, all_gather_text


class ElsewhereError(RuntimeError):
    """Another process has failed; that is known to all."""


class Report(NamedTuple):
    """What a process tells the others: its failure, if it has failed, and its values, described."""

    failure: str | None
    values: dict[str, str]


def check_replicas(group: ProcessGroup, values: Mapping[str, object], device: torch.device) -> None:
    """Refuse, in all processes alike, values that differ between the processes.

    Processes that start from different parameters, data, settings or seeds would each solve a problem
    of its own and mix the gradients, or wait for each other for ever.

    Args:
        group: The processes. All call this function together.
        values: What must be the same in all, by the name that an error gives it.
        device: Where the processes exchange tensors.

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
    """The same data, whose batches are compared between the processes. Where one of them failed to
    read, or read another batch, all raise, so that all end alike.
    """

    def compared(batch: Batch | None, error: Exception | None) -> Exception | None:
        sketches = [_sketch(part) for part in batch or ()]
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
    """Tell a failure within to the other processes, which wait in `check_replicas`.

    Within, `check_replicas` must come before any other exchange between the processes, and what fails
    after it must do so in all of them. What is raised goes through. In a process that did not fail
    `check_replicas` raises `ElsewhereError` with the rank that failed and its exception.
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
    """A checksum of what a value holds, as far as it can be described. Processes that do the same have
    the same one.
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
    """Three numbers that tell batches apart: cheaper in every step than a checksum of all bytes."""
    numbers = values.detach().double().reshape(-1)
    order = torch.arange(1, numbers.numel() + 1, dtype=numbers.dtype, device=numbers.device)
    return torch.stack([numbers.sum(), numbers @ numbers, numbers @ order.rsqrt()]).tolist()
