"""Lists, tuples and dictionaries of values, as the arguments of an operation are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def leaves(x: Any) -> Iterator[Any]:
    """All that is in ``x`` and is no list, tuple or dictionary, in order."""
    if isinstance(x, dict):
        x = x.values()
    elif not isinstance(x, list | tuple):
        yield x
        return
    for part in x:
        yield from leaves(part)


def mapped(function: Callable[[Any], Any], x: Any) -> Any:
    """``x`` with ``function`` applied to each of its leaves."""
    if isinstance(x, list | tuple):
        return type(x)([mapped(function, part) for part in x])
    if isinstance(x, dict):
        return {key: mapped(function, part) for key, part in x.items()}
    return function(x)
