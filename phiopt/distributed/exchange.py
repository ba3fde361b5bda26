"""Exchange between the processes of a group. If a process is lost, the others end with an error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

P = ParamSpec("P")
T = TypeVar("T")

INTERVAL = timedelta(seconds=2)
"""Interval at which a process that waits for the others looks for a reported failure."""


class LostError(ConnectionError):
    """Another process of the group has ended, cannot be reached, or has failed by itself. The group can no longer be
    used.
    """


@dataclass
class _State:
    """The state of a group in this process: the number of calls that all have begun, and why a process was lost."""

    calls: int = 0
    lost: str = ""
    under_way: bool = False
    """Whether a call that all make together is under way. Calls inside it are a part of it."""

    @property
    def key(self) -> str:
        """The key in the group's store under which a failure of this call is reported."""
        return f"phiopt/failed/{self.calls}"


_states: WeakKeyDictionary[ProcessGroup, _State] = WeakKeyDictionary()


def all_reduce(tensor: Tensor, group: ProcessGroup, op: Any = dist.ReduceOp.SUM) -> None:
    """`torch.distributed.all_reduce`, in place. `LostError` where a process is lost.

    Over gloo only the neighbours of a process that has ended see their connections close. All others would wait for
    ever. They learn of the failure from the group's store, to which `together` reports it.
    """
    state = _states.setdefault(group, _State())
    if state.lost:
        raise LostError(state.lost)
    try:
        if tensor.device.type == "cpu":
            _watched(tensor, group, op, state)
        else:
            dist.all_reduce(tensor, op=op, group=group)
    except LostError as error:
        state.lost = str(error)
        raise
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        state.lost = (
            "process_group: a process of the group has ended, or cannot be reached; start all of them "
            f"again ({first})"
        )
        raise LostError(state.lost) from error


def all_gather_text(text: str, group: ProcessGroup, device: torch.device) -> list[str]:
    """The texts of all processes, by rank. `LostError` where a process is lost, unlike
    `torch.distributed.all_gather_object`, which would wait for ever.
    """
    own = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
    length = torch.tensor(len(own), device=device)
    all_reduce(length, group, dist.ReduceOp.MAX)
    rows = torch.zeros(dist.get_world_size(group), int(length), dtype=torch.uint8, device=device)
    rows[dist.get_rank(group), : len(own)] = own
    all_reduce(rows, group, dist.ReduceOp.MAX)
    return [bytes(row).rstrip(b"\0").decode() for row in rows.tolist()]


def _watched(tensor: Tensor, group: ProcessGroup, op: Any, state: _State) -> None:
    work = dist.all_reduce(tensor, op=op, group=group, async_op=True)
    failed = False
    while not work.is_completed():
        with suppress(RuntimeError):  # the interval is over; `wait` below raises any other error
            work.wait(INTERVAL)
        # A failure that all processes share is reported too. One interval later this process has met it.
        if failed and not work.is_completed():
            raise LostError(f"process_group: {group.get_group_store().get(state.key).decode()}")
        failed = group.get_group_store().check([state.key])
    work.wait()


def together(call: Callable[P, T]) -> Callable[P, T]:
    """A decorator of functions that all processes of their argument ``process_group`` call together. An exception in
    one process is reported to the others, which may be waiting.

    In the other processes the call raises `LostError`, even if it would have returned a result or raised another
    error.
    """

    @wraps(call)
    def watched(*args: P.args, **kwargs: P.kwargs) -> T:
        group = kwargs.get("process_group")
        if not isinstance(group, ProcessGroup):
            return call(*args, **kwargs)
        state = _states.setdefault(group, _State())
        if state.under_way:
            return call(*args, **kwargs)
        state.calls, state.under_way = state.calls + 1, True
        try:
            result = call(*args, **kwargs)
            if state.lost:
                raise LostError(state.lost)
        except BaseException as error:
            _report(group, state, error)
            if state.lost and isinstance(error, Exception) and not isinstance(error, LostError):
                raise LostError(state.lost) from error
            raise
        finally:
            state.under_way = False
        return result

    return watched


def _report(group: ProcessGroup, state: _State, error: BaseException) -> None:
    rank = dist.get_global_rank(group, dist.get_rank(group))
    own = f"rank {rank} failed with {type(error).__name__}: {error}"
    text = state.lost.removeprefix("process_group: ") or own
    with suppress(RuntimeError):  # the store may have gone with the process
        if not group.get_group_store().check([state.key]):
            group.get_group_store().set(state.key, text)
