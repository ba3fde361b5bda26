"""Whether the processes of a group solve one problem: the same settings, models and batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from phiopt._described import checksum, described
from phiopt.data import Batch, Data
from phiopt.solve.exchange import LostError, all_reduce

TOLD = 400
"""Bytes of a failure that other processes are told."""

_DIFFERS = (
    "differs between the processes; all must be given the same models, data (no DistributedSampler: "
    "batches are shared out here), settings and seed"
)


def agreeing(data: Data, group: ProcessGroup, device: torch.device) -> Data:
    """The same data, whose batches are compared between the processes. Where one of them failed to
    read, or read another batch, all raise, so that all end alike.
    """

    def agree(batch: Batch | None, error: Exception | None) -> Exception | None:
        failed = torch.ones(1, dtype=torch.float64, device=device) * (error is not None)
        nothing = torch.zeros(3, dtype=torch.float64, device=device)
        sketches = [_sketch(part) if batch else nothing for part in batch or (failed, failed)]
        sketch = torch.cat(sketches)
        ends = torch.cat([failed, sketch, -sketch])
        all_reduce(ends, group, dist.ReduceOp.MAX)
        if ends[0]:
            return error or RuntimeError("data: reading failed in another process")
        if not torch.equal(ends[1:7], -ends[7:]):
            return ValueError(f"process_group: a batch {_DIFFERS}")
        return None

    return data.agreeing(agree)


def fingerprint(value: object) -> Tensor:
    """A number that depends on a setting, as far as it can be described."""
    number = int(checksum(map(str, described("it", value, attributes=False).items()))[:8], 16)
    return torch.tensor(float(number), dtype=torch.float64, device="cpu")


class ElsewhereError(RuntimeError):
    """Another process has failed; that is known to all."""


@contextmanager
def failing_together(group: ProcessGroup | None, device: torch.device) -> Iterator[None]:
    """Tell a failure within to the other processes, which wait in `check_agreement`.

    Within, `check_agreement` must come before any other exchange between the processes, and what fails
    after it must do so in all of them. What is raised goes through; in a process that did not fail
    `check_agreement` raises `ElsewhereError` with the rank that failed and its exception.
    """
    try:
        yield
    except (ElsewhereError, LostError):
        raise
    except Exception as error:
        if group is not None:
            _failures(group, device, error)
        raise


def _failures(group: ProcessGroup, device: torch.device, error: Exception | None) -> list[str]:
    """What has failed in which process, the same list in all of them."""
    told = torch.zeros(dist.get_world_size(group), TOLD, dtype=torch.int32, device=device)
    rank = dist.get_rank(group)
    if error is not None:
        text = (
            f"rank {dist.get_global_rank(group, rank)} failed with {type(error).__name__}: {error}"
        )
        letters = list(text.encode()[:TOLD])
        told[rank, : len(letters)] = torch.tensor(letters, dtype=torch.int32, device=device)
    all_reduce(told, group, dist.ReduceOp.MAX)
    texts = (bytes(row).rstrip(b"\0").decode(errors="ignore") for row in told.tolist())
    return [text for text in texts if text]


def check_agreement(group: ProcessGroup, held: dict[str, Tensor]) -> None:
    """Refuse, in all processes alike, what is not the same in all: ``ValueError`` with the name;
    `ElsewhereError` if another process has failed before it came here (`failing_together`).

    Processes that start from different parameters, data, settings or seeds would each solve a problem
    of its own and mix the gradients, or wait for each other for ever.
    """
    failures = _failures(group, next(iter(held.values())).device, None)
    if failures:
        raise ElsewhereError(f"process_group: {'; '.join(failures)}")
    for name, value in held.items():
        sketch = _sketch(value)
        ends = torch.cat([sketch, -sketch])
        all_reduce(ends, group, dist.ReduceOp.MAX)
        if not torch.equal(ends[:3], -ends[3:]):
            raise ValueError(f"process_group: {name} {_DIFFERS}")


def check_settings(group: ProcessGroup, settings: dict[str, object], device: torch.device) -> None:
    """`check_agreement` of settings, as far as they can be described."""
    check_agreement(group, {n: fingerprint(value).to(device) for n, value in settings.items()})


def _sketch(value: Tensor) -> Tensor:
    """Three numbers that tell tensors apart."""
    numbers = value.detach().double().reshape(-1)
    place = torch.arange(1, numbers.numel() + 1, dtype=numbers.dtype, device=numbers.device)
    return torch.stack([numbers.sum(), numbers @ numbers, numbers @ place.rsqrt()])
