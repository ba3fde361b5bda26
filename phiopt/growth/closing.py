"""Close a branch: the values of its last parameters with which it adds nothing.

An operation is asked on numbers which of its tensors make its result zero if they are zero. So a product is closed by
one of its factors, a sum by all its terms, a gate by what it multiplies, and a softmax by nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from phiopt.growth.catalogue import facts
from phiopt.growth.constants import acts_on_each_coordinate
from phiopt.growth.correspond import times
from phiopt.growth.example import REFUSALS
from phiopt.growth.graph import Node, Trace, Value
from phiopt.growth.nested import leaves
from phiopt.growth.replay import called

Settings = dict[str, float]
"""Values of parameters, all coordinates alike, by name."""


class Closing:
    """What closes the values of a trace.

    Args:
        trace: The student's computation.
        inside: The operations of the branch. Only their parameters may close it.
    """

    def __init__(self, trace: Trace, inside: Collection[Node]) -> None:
        self._trace = trace
        self._makers = {o.id: node for node in inside for o in node.outputs}
        self._known: dict[int, Settings | None] = {}

    def settings(self, value: Value) -> Settings | None:
        """The settings with which ``value`` is zero at every input; ``None`` if there are none."""
        if value.id not in self._known:
            self._known[value.id] = None
            self._known[value.id] = self._settings(value)
        return self._known[value.id]

    def _settings(self, value: Value) -> Settings | None:
        root = self._root(value, 0.0)
        if root is not None:
            return dict([root])
        node = self._makers.get(value.id)
        if node is None:
            return None
        for zeros in self._ways(node):
            if not self._vanishes(node, value, {v.id for v in zeros}):
                continue
            parts = [self.settings(v) for v in zeros]
            named = {item for part in parts if part for item in part.items()}
            if all(parts) and len(dict(named)) == len(named):
                return dict(named)
        return None

    def _root(self, value: Value, target: float) -> tuple[str, float] | None:
        """The parameter of which ``value`` is a view or an affine function, and its value at ``target``."""
        name = self._trace.tensors.get(value.id)
        if name is not None:
            return None if name in self._trace.buffers else (name, target)
        node = self._makers.get(value.id) or self._rescaling(value)
        if node is None or len(node.inputs) != 1:
            return None
        if facts(node.name).regroups:
            return self._root(node.inputs[0], target)
        if not acts_on_each_coordinate(node.target, node.name):
            return None
        points = torch.tensor([0.0, 1.0, 2.0], device="cpu")
        low, middle, high = called(node, {node.inputs[0].id: points})[0].tolist()
        if middle == low or not abs(high - 2 * middle + low) <= 1e-6 * abs(middle - low):
            return None
        return self._root(node.inputs[0], (target - low) / (middle - low))

    def _rescaling(self, value: Value) -> Node | None:
        """The operation that multiplies a parameter by a number, at any place of the forward pass."""
        node = self._trace.producers.get(value.id)
        return node if times(node) is not None else None

    def _ways(self, node: Node) -> Iterator[list[Value]]:
        """The tensors of which all being zero may make the result zero, parameters first."""
        inputs = list(dict.fromkeys(node.inputs))
        added = [
            v
            for k, neutral in facts(node.name).optional.items()
            if neutral == 0.0 and isinstance(v := node.arguments.get(k), Value)
        ]
        factors = [v for v in inputs if v not in added]
        for v in sorted(factors, key=lambda v: self._root(v, 0.0) is None):
            yield [v, *added]
        yield inputs

    def _vanishes(self, node: Node, value: Value, zeros: set[int]) -> bool:
        """Whether a result is zero if these tensors are zero and the others are not."""
        known = facts(node.name)
        if known.factors:
            values = (node.arguments[name] for name in known.factors)
            return any(isinstance(v, Value) and v.id in zeros for v in values)
        lookup = () if known.lookup is None else (known.lookup.indices,)
        given: dict[int, Tensor] = {}
        for name, argument in node.arguments.items():
            for v in (x for x in leaves(argument) if isinstance(x, Value)):
                if v.id in self._trace.constants:
                    given[v.id] = self._trace.constants[v.id].cpu()
                elif name in lookup or name in known.masks:
                    dtype = torch.long if name in lookup else torch.bool
                    given[v.id] = torch.zeros(v.shape, dtype=dtype, device="cpu")
                else:
                    size = int(torch.Size(v.shape).numel())
                    ramp = torch.linspace(0.5, 1.5, size, device="cpu").reshape(v.shape)
                    given[v.id] = ramp * float(v.id not in zeros)
        try:
            made = called(node, given)[node.outputs.index(value)]
        except REFUSALS:
            return False
        return not bool(made.any())
