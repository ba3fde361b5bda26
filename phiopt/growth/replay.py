"""Compute a value of a recorded computation from its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from phiopt.growth.graph import Node, Trace, Value
from phiopt.growth.nested import mapped


def replayed(trace: Trace, value: Value, given: Tensor) -> Tensor:
    """Compute ``value`` of a trace from its only input, ``given``.

    Raises:
        ValueError: The value depends on more than the input.
    """
    producers = trace.producers
    known: dict[int, Tensor] = {trace.inputs[0].id: given}

    def computed(wanted: Value) -> Tensor:
        if wanted.id not in known:
            if wanted.id not in producers:
                raise ValueError(f"a value of shape {wanted.shape} is no function of the input")
            node = producers[wanted.id]
            made = called(node, {v.id: computed(v) for v in node.inputs})
            known.update({o.id: x for o, x in zip(node.outputs, made, strict=False)})
        return known[wanted.id]

    return computed(value)


def called(node: Node, given: Mapping[int, Tensor]) -> Sequence[Tensor]:
    """The results of an operation on real tensors on the CPU, by the ids of the values that it reads."""
    arguments = mapped(lambda x: given[x.id] if isinstance(x, Value) else x, node.arguments)
    made = node.target(**{k: _here(v) for k, v in arguments.items()})
    return made if isinstance(made, tuple | list) else (made,)


def _here(argument: object) -> object:
    return torch.device("cpu") if argument == torch.device("meta") else argument
