"""A recorded computation: its operations and the tensors between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from phiopt.growth.nested import leaves


@dataclass(frozen=True)
class Value:
    """A tensor of the trace; equal values are the same tensor.

    Attributes:
        id: Its number.
        shape: Its shape.
        strides: Its strides in memory, if they are not those of a contiguous tensor.
    """

    id: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = field(default=None, compare=False)


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. ``arguments`` are by their names in the operator's schema, with a `Value` for each tensor."""

    name: str
    target: torch._ops.OpOverload
    arguments: dict[str, Any]
    outputs: tuple[Value, ...]
    module: str

    def __getstate__(self) -> dict[str, Any]:
        operator = self.target
        return vars(self) | {
            "target": (operator.namespace, operator._opname, operator._overloadname)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        namespace, name, overload = state["target"]
        packet = getattr(getattr(torch.ops, namespace), name)
        vars(self).update(state | {"target": getattr(packet, overload)})

    @cached_property
    def inputs(self) -> list[Value]:
        return [x for x in leaves(self.arguments) if isinstance(x, Value)]

    def __str__(self) -> str:
        shapes = ", ".join(str(list(o.shape)) for o in self.outputs)
        return f"{self.name} -> {shapes} in {self.module or 'the root module'}"


@dataclass
class Trace:
    """The operations of one forward pass that depend on the input or on a parameter, in order."""

    nodes: list[Node]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    tensors: dict[int, str]
    """Names of parameters and buffers, by the ids of their values. Buffers that no file holds are constants."""
    constants: dict[int, Tensor] = field(default_factory=dict)
    """Values that depend on no input, parameter or saved buffer, as a mask does, by id."""
    used: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of all parameters and saved buffers, by name. A tied one appears once."""
    buffers: frozenset[str] = frozenset()
    """Names of the buffers."""

    @cached_property
    def producers(self) -> Mapping[int, Node]:
        """The operation that makes each value, by the value's id."""
        return {o.id: node for node in self.nodes for o in node.outputs}

    @cached_property
    def readers(self) -> Mapping[int, list[Node]]:
        """The operations that read each value and lead to an output, by the value's id; none for what is only kept."""
        live = {o.id for o in self.outputs}
        for node in reversed(self.nodes):
            if any(o.id in live for o in node.outputs):
                live |= {v.id for v in node.inputs}
        readers: dict[int, list[Node]] = defaultdict(list)
        for node in self.nodes:
            if any(o.id in live for o in node.outputs):
                for v in dict.fromkeys(node.inputs):
                    readers[v.id].append(node)
        return readers
