"""Work divided among processes: whoever holds a file's lock makes the file."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

Item = TypeVar("Item")


@contextmanager
def claimed(path: Path, *, wait: bool) -> Iterator[None]:
    """Only one process at a time is in the block of a ``path``; the claim of one that dies is free.

    Raises ``Timeout`` if another process is in it and ``wait`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.stem}.lock")
    with FileLock(lock).acquire(blocking=wait):
        try:
            yield
        finally:
            # While it is held: who has opened it before finds it without a name, and opens it anew.
            with suppress(OSError):  # Windows removes no open file
                lock.unlink()


def divide(items: Sequence[Item], work: Callable[[Item, bool], None]) -> None:
    """``work(item, wait)`` on every item; one that raises ``Timeout`` has its turn again later.

    It is asked to wait only where all that is left is in other hands.
    """
    left, wait = list(items), False
    while left:
        taken = []
        for item in left:
            try:
                work(item, wait)
                wait = False
            except Timeout:
                taken.append(item)
        left, wait = taken, len(taken) == len(left)
