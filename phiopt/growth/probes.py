"""Inputs on which a grown student is held against its teacher."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from phiopt.growth.map import GrowthMap
from phiopt.growth.trace import Node, Trace, Value

SCALES = (1e-3, 30.0)
"""An eps shows at small inputs, a clamp at large ones."""


def probes(map: GrowthMap, inputs: Tensor | None, seed: int) -> Iterator[Tensor]:
    """Batches of the shape that the map was traced with, on the processor's memory; the first is the plainest.

    Args:
        inputs: A batch of the teacher's inputs, or None. Values that are all equal tell a shape and nothing more.
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
    """The first of the user's examples, as many as were traced; None where they have another shape."""
    if inputs.ndim != len(shape) or tuple(inputs.shape[1:]) != shape[1:] or not inputs.numel():
        return None
    rows = torch.arange(shape[0], device="cpu") % inputs.shape[0]
    return inputs.detach().to("cpu")[rows]


def _rows(trace: Trace) -> int | None:
    """Rows of the smallest table that the input is an index into."""
    indices = {v.id for v in trace.inputs}
    sizes = []
    for node in trace.nodes:
        if node.name in ("view", "unsqueeze", "squeeze", "expand", "transpose", "permute", "t"):
            if node.inputs[0].id in indices:
                indices |= {o.id for o in node.outputs}
        elif node.name.startswith(("embedding", "_embedding_bag")):
            sizes += [n for n in [_table(node, indices)] if n is not None]
    return min(sizes, default=None)


def _table(node: Node, indices: set[int]) -> int | None:
    index, weight = node.arguments.get("indices"), node.arguments.get("weight")
    if not (isinstance(index, Value) and isinstance(weight, Value) and index.id in indices):
        return None
    return weight.shape[0]
