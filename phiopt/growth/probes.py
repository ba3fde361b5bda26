"""Inputs on which a grown student is compared with its teacher."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from phiopt._inputs import Inputs, entries_of, main_of, mapped, with_main
from phiopt.growth.catalogue import facts
from phiopt.growth.graph import Node, Trace, Value
from phiopt.growth.map import GrowthMap

SCALES = (1e-3, 30.0)
"""Factors of the inputs. Another eps shows at small inputs, another clamp at large ones."""


def probes(map: GrowthMap, inputs: Inputs | None, seed: int) -> Iterator[Inputs]:
    """Batches of the shape with which the map was traced, on the CPU. The first is the plainest.

    Args:
        map: The growth map.
        inputs: A batch of the teacher's inputs, or ``None``. If its values are all equal, only its shape is used.
        seed: Seed of the random inputs.

    Of several inputs the main one varies. The others stay those of the batch, or else those with which the map was
    traced.
    """
    assert map.traced is not None
    count = map.traced[0][0]
    given = None if inputs is None else _given(inputs, map)
    first = map.example(seed)[:count] if given is None else given
    for main in _mains(map, None if given is None else main_of(given), main_of(first), seed):
        yield with_main(first, main)


def _mains(map: GrowthMap, given: Tensor | None, example: Tensor, seed: int) -> Iterator[Tensor]:
    """The tensors that ψ acts on."""
    assert map.traced is not None
    assert map.correspondence is not None
    shape, dtype = map.traced
    generator = torch.Generator().manual_seed(seed)
    varied = given is not None and given.numel() > 1 and bool((given != given.flatten()[0]).any())
    if given is None:
        given = example
    elif not varied and given.is_floating_point():
        given = torch.randn(shape, generator=generator, dtype=dtype, device="cpu")
    yield given
    if given.is_floating_point():
        for scale in SCALES:
            yield given * scale
        return
    low, high = int(given.min()), int(given.max()) + 1
    rows = None if given.dtype == torch.bool else _rows(map.correspondence.teacher)
    if rows is not None:
        low, high = 0, rows
    yield torch.randint(low, high, shape, generator=generator, device="cpu").to(given.dtype)


def _given(inputs: Inputs, map: GrowthMap) -> Inputs | None:
    """As many of the user's examples as were traced; ``None`` if they have another shape or other entries."""
    assert map.traced is not None
    shape, main = map.traced[0], main_of(inputs)
    if main.ndim != len(shape) or tuple(main.shape[1:]) != shape[1:] or not main.numel():
        return None
    if set(entries_of(inputs)) != ({""} if map.beside is None else set(map.beside.entries)):
        return None
    rows = torch.arange(shape[0], device="cpu") % len(inputs)
    return mapped(lambda x: x.detach().to("cpu")[rows], inputs)


def _rows(trace: Trace) -> int | None:
    """The number of rows of the smallest table that the input is an index of; ``None`` if it is no index."""
    indices = {trace.inputs[0].id}
    sizes: list[int] = []
    for node in trace.nodes:
        if facts(node.name).regroups:
            if node.inputs[0].id in indices:
                indices |= {o.id for o in node.outputs}
        else:
            sizes += _table_sizes(node, indices)
    return min(sizes, default=None)


def _table_sizes(node: Node, indices: set[int]) -> Iterator[int]:
    """The sizes of the axes that an operation indexes by one of the values ``indices``."""
    lookup = facts(node.name).lookup
    if lookup is None:
        return
    given = node.arguments[lookup.indices]
    table = node.arguments[lookup.table]
    for i, index in enumerate(given if isinstance(given, list) else [given]):
        if isinstance(index, Value) and index.id in indices:
            yield table.shape[lookup.axis(node, i)]
