"""Compute a value of a recorded computation from its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from phiopt.growth.graph import Node, Trace, Value


def replayed(trace: Trace, value: Value, given: Tensor) -> Tensor:
    """Compute ``value`` of a trace from its only input, ``given``.

    Raises:
        ValueError: The value depends on more than the input.
    """
    producers = {o.id: n for n in trace.nodes for o in n.outputs}
    known: dict[int, Tensor] = {trace.inputs[0].id: given}

    def computed(wanted: Value) -> Tensor:
        if wanted.id not in known:
            if wanted.id not in producers:
                raise ValueError(f"a value of shape {wanted.shape} is no function of the input")
            node = producers[wanted.id]
            arguments = tree_map(
                lambda x: computed(x) if isinstance(x, Value) else x, node.arguments
            )
            known.update(
                {o.id: x for o, x in zip(node.outputs, called(node, arguments), strict=False)}
            )
        return known[wanted.id]

    return computed(value)


def called(node: Node, arguments: Mapping[str, Any]) -> Sequence[Tensor]:
    """The results of an operation on real tensors, on the CPU."""
    made = node.target(**{k: _here(v) for k, v in arguments.items()})
    return made if isinstance(made, tuple | list) else (made,)


def _here(argument: object) -> object:
    return torch.device("cpu") if argument == torch.device("meta") else argument
