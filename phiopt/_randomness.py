"""Draws that repeat themselves: generators that start from a seed and are put back, and loaders that begin anew."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from phiopt._modules import alone

_MOST = 1000
"""Objects of a source that are looked through for generators of its own."""
_AT_END: list[list[Callable[[], None]]] = []
"""What is to be done at the end of each scope under way, the innermost last."""
_LONGEST = 32
"""Entries of a list or dictionary that is looked through; longer ones hold the examples."""


@contextmanager
def preserved_randomness(
    source: object, device: torch.device, seed: int, *others: object
) -> Iterator[None]:
    """The global generators of Python, NumPy and PyTorch start from ``seed`` within. They are put back after, and so
    are the generators that the sources hold: loaders, samplers, data sets and their transforms.

    A loader draws its order from them, and so may a data set's transforms: seeded they repeat
    themselves, and the caller's stream of random numbers goes on as if nothing had been drawn.
    """
    with alone():
        put_back: list[Callable[[], object]] = [
            partial(random.setstate, random.getstate()),
            partial(np.random.set_state, np.random.get_state()),  # noqa: NPY002
            *map(_kept, _generators([source, *others])),
        ]
        _AT_END.append([])
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed % 2**32)  # noqa: NPY002  (the global one is what is meant)
                yield
        finally:
            for do in (*_AT_END.pop(), *put_back):
                do()


def at_end(do: Callable[[], None]) -> None:
    """Have ``do`` called, once, at the end of the innermost `preserved_randomness`, if there is one."""
    if _AT_END and do not in _AT_END[-1]:
        _AT_END[-1].append(do)


def begun_anew(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The same loader, so that a pass depends on the global generators and the loader's own alone.

    Workers that persist go on with the random numbers of passes before, and the loader's one iterator may be in use:
    here each pass has workers of its own. Batches come in the order they are asked for.
    """
    if loader.num_workers == 0 or (loader.in_order and not loader.persistent_workers):
        return loader
    anew = copy(loader)
    vars(anew).update(persistent_workers=False, in_order=True, _iterator=None)
    return anew


def _generators(sources: list[object]) -> list[Any]:
    """The generators that the sources hold, as attributes, in short lists, in closures; each once."""
    queue, seen, found = list(sources), {id(source) for source in sources}, []
    for held in queue:  # which grows
        if isinstance(held, _KINDS):
            found.append(held)
            continue
        for part in _parts(held):
            if id(part) not in seen and len(queue) < _MOST:
                seen.add(id(part))
                queue.append(part)
    return found


def _parts(held: object) -> list[Any]:
    if isinstance(held, Tensor | ModuleType | type | str | bytes):
        return []
    if isinstance(held, list | tuple | set):
        return list(held) if len(held) <= _LONGEST else []
    if isinstance(held, dict):
        return list(held.values()) if len(held) <= _LONGEST else []
    if isinstance(held, partial):
        return [held.func, *held.args, *held.keywords.values()]
    if isinstance(held, FunctionType):
        cells = [cell.cell_contents for cell in held.__closure__ or () if _filled(cell)]
        return [*cells, *(held.__defaults__ or ())]
    if hasattr(held, "__self__"):  # of a bound method
        return [held.__self__]
    # A loader's iterator holds processes and queues.
    return [value for name, value in getattr(held, "__dict__", {}).items() if name != "_iterator"]


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


_KINDS = (Generator, np.random.Generator, np.random.RandomState, random.Random)


def _kept(generator: Any) -> Callable[[], None]:
    """What puts the generator back to where it is now."""
    if isinstance(generator, random.SystemRandom):  # it has no state
        return lambda: None
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    if isinstance(generator, np.random.Generator):
        return partial(
            setattr, generator.bit_generator, "state", deepcopy(generator.bit_generator.state)
        )
    return partial(generator.set_state, generator.get_state())
