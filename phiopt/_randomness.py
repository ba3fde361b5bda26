"""Repeatable draws: generators that start from a seed and are restored, and loaders that begin anew."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from functools import partial
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from phiopt._modules import global_lock

_MOST = 1000
"""Most objects of a source that are searched for generators."""
_AT_END: list[list[Callable[[], None]]] = []
"""For each open scope the calls to make at its end; the innermost scope is last."""
_LONGEST = 32
"""Entries of a list or dictionary that is searched. Longer ones hold the examples."""


@contextmanager
def preserved_randomness(
    source: object, device: torch.device, seed: int, *others: object
) -> Iterator[None]:
    """Inside this context the global generators of Python, NumPy and PyTorch start from ``seed``. At the end
    they are restored, and so are the generators of the sources: of loaders, samplers, data sets and their
    transforms.

    A loader draws its order from the global generators, and so may a data set's transforms. From a seed
    these draws repeat. The caller's stream of random numbers goes on as if nothing had been drawn.
    """
    with global_lock():
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
    """Call ``do`` once, at the end of the innermost `preserved_randomness`, if there is one."""
    if _AT_END and do not in _AT_END[-1]:
        _AT_END[-1].append(do)


def begun_anew(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The same loader, with passes that depend only on the global generators and on the loader's own.

    Persistent workers go on with the random numbers of earlier passes, and the loader's single iterator may be in
    use. Here each pass has new workers, and batches come in the order in which they are asked for.
    """
    if loader.num_workers == 0 or (loader.in_order and not loader.persistent_workers):
        return loader
    anew = copy(loader)
    vars(anew).update(persistent_workers=False, in_order=True, _iterator=None)
    return anew


def _generators(sources: list[object]) -> list[Any]:
    """The generators in the sources' attributes, short lists and closures, each once."""
    queue, seen, generators = list(sources), {id(source) for source in sources}, []
    for item in queue:  # the loop adds to it
        if isinstance(item, _KINDS):
            generators.append(item)
            continue
        for part in _parts(item):
            if id(part) not in seen and len(queue) < _MOST:
                seen.add(id(part))
                queue.append(part)
    return generators


def _parts(item: object) -> list[Any]:
    if isinstance(item, Tensor | ModuleType | type | str | bytes):
        return []
    if isinstance(item, list | tuple | set):
        return list(item) if len(item) <= _LONGEST else []
    if isinstance(item, dict):
        return list(item.values()) if len(item) <= _LONGEST else []
    if isinstance(item, partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, FunctionType):
        cells = [cell.cell_contents for cell in item.__closure__ or () if _filled(cell)]
        return [*cells, *(item.__defaults__ or ())]
    if isinstance(item, MethodType | BuiltinMethodType):
        return [item.__self__]
    # A loader's iterator holds processes and queues.
    return [value for name, value in getattr(item, "__dict__", {}).items() if name != "_iterator"]


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


_KINDS = (Generator, np.random.Generator, np.random.RandomState, random.Random)


def _kept(generator: Any) -> Callable[[], None]:
    """A call that restores the generator's present state."""
    if isinstance(generator, random.SystemRandom):  # it has no state
        return lambda: None
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    if isinstance(generator, np.random.Generator):
        return partial(
            setattr, generator.bit_generator, "state", deepcopy(generator.bit_generator.state)
        )
    return partial(generator.set_state, generator.get_state())
