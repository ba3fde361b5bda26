"""The progress of a call, on a terminal only: its phase, and the time that is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

_SHOWN: list[Any] = []
"""The bar of the call, if one is shown."""
WITHOUT_END = "{desc}[{elapsed}]"


@contextmanager
def showing(progress: bool) -> Iterator[Any]:
    """The bar of the call: a new one, or that of the call around this one. In a pipe, and without ``progress``, it
    shows nothing.
    """
    if progress and _SHOWN:
        yield _SHOWN[-1]
        return
    # With a delay nothing is shown before the first phase.
    with tqdm(desc="φ", disable=None if progress else True, delay=1e-3) as bar:
        if bar.disable:
            yield bar
            return
        _SHOWN.append(bar)
        try:
            yield bar
        finally:
            _SHOWN.remove(bar)


def phase(name: str, total: int | None = None, done: int = 0) -> None:
    """From now on the bar shows this phase. It has ``total`` parts, ``done`` of which are done already; None: no end is
    known.
    """
    for bar in _SHOWN[-1:]:
        bar.bar_format = WITHOUT_END if total is None else None
        bar.set_description(f"φ: {name}", refresh=False)
        bar.total, bar.initial = total, done
        bar.reset()
        bar.n = done
        bar.refresh()


@contextmanager
def within(name: str) -> Iterator[None]:
    """A phase within another one, whose parts are not counted."""
    bars = [(bar, bar.desc) for bar in _SHOWN[-1:]]
    for bar, _ in bars:
        bar.set_description(f"φ: {name}")
    yield
    for bar, before in bars:
        bar.set_description_str(before)


def advance() -> None:
    """A part of the phase is done."""
    for bar in _SHOWN[-1:]:
        bar.update()
        bar.refresh()


def shown() -> bool:
    """Whether a bar is shown."""
    return bool(_SHOWN)


def say(line: str) -> None:
    """Write a line above the bar."""
    for bar in _SHOWN[-1:]:
        bar.write(line, file=bar.fp)
