"""Inputs on which a grown student is compared with its teacher."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from phiopt.growth.catalogue import facts
from phiopt.growth.graph import Node, Trace, Value
from phiopt.growth.map import GrowthMap

SCALES = (1e-3, 30.0)
"""Factors of the inputs. Another eps shows at small inputs, another clamp at large ones."""


def probes(map: GrowthMap, inputs: Tensor | None, seed: int) -> Iterator[Tensor]:
    """Batches of the shape with which the map was traced, on the CPU. The first is the plainest.

    Args:
        map: The growth map.
        inputs: A batch of the teacher's inputs, or ``None``. If its values are all equal, only its shape is used.
        seed: Seed of the random inputs.
    """
    assert map.traced is not None
    assert map.correspondence is not None
    shape, dtype = map.traced
    generator = torch.Generator().manual_seed(seed)
    given = None if inputs is None else _given(inputs, shape)
    varied = given is not None and given.numel() > 1 and bool((given != given.flatten()[0]).any())
    if given is None:
        given = map.example(seed)[: shape[0]]
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


def _given(inputs: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """As many of the user's examples as were traced; ``None`` if they have another shape."""
    if inputs.ndim != len(shape) or tuple(inputs.shape[1:]) != shape[1:] or not inputs.numel():
        return None
    rows = torch.arange(shape[0], device="cpu") % inputs.shape[0]
    return inputs.detach().to("cpu")[rows]


def _rows(trace: Trace) -> int | None:
    """The number of rows of the smallest table that the input is an index of; ``None`` if it is no index."""
    indices = {v.id for v in trace.inputs}
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
