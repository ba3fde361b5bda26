"""How values flow through operations that only the student has: streams, and the branches that are added to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from phiopt.growth.catalogue import facts
from phiopt.growth.graph import Node, Trace, Value


@dataclass
class Flow:
    """The student's computation, and what is known of the inserted operations so far.

    Attributes:
        trace: The student's computation.
        source: The value that each inserted operation passes on, by the operation's id.
        silent: The operations that only closed branches need, by id.
        producers: The operation that makes each value, by the value's id.
        readers: The operations that read each value and lead to an output, likewise.
    """

    trace: Trace
    source: dict[int, Value] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    producers: Mapping[int, Node] = field(init=False)
    readers: Mapping[int, list[Node]] = field(init=False)

    def __post_init__(self) -> None:
        self.producers = self.trace.producers
        self.readers = self.trace.readers

    def passed(self, stream: Value) -> list[Value]:
        """A value, and the values that inserted operations passed on to it, the first one last."""
        passed = [stream]
        while (maker := self.producers.get(passed[-1].id)) and id(maker) in self.source:
            passed.append(self.source[id(maker)])
        return passed

    def between(self, value: Value, stream: Value) -> list[Node]:
        """The operations that lead to ``value`` from ``stream``, or from what the stream comes from."""
        passed = self.passed(stream)
        nodes, todo, seen = [], [value], {v.id for v in passed}
        while todo:
            v = todo.pop()
            if v.id in seen or v.id not in self.producers or v.id < passed[-1].id:
                continue
            seen.add(v.id)
            nodes.append(self.producers[v.id])
            todo.extend(nodes[-1].inputs)
        return nodes

    def comes_from(self, value: Value, stream: Value) -> bool:
        """Whether ``value`` is computed from ``stream``, or from what the stream comes from."""
        return self.reads(value, stream, self.passed(stream))

    def reads(self, value: Value, stream: Value, sources: list[Value]) -> bool:
        """Whether an operation between ``stream`` and ``value`` reads one of ``sources``."""
        read = {v.id for n in self.between(value, stream) for v in n.inputs}
        return any(v.id in read for v in sources)

    def only_in(self, branch: Value, stream: Value, total: Node) -> list[Node]:
        """The operations of a branch of which no other part of the student reads anything."""
        ends = {v.id for v in self.trace.outputs}
        silent, inside = set(self.silent), []
        for node in sorted(self.between(branch, stream), key=lambda n: -n.outputs[0].id):
            readers = [r for o in node.outputs for r in self.readers[o.id]]
            elsewhere = any(r is not total and id(r) not in silent for r in readers)
            if branch in node.outputs or not (elsewhere or ends & {o.id for o in node.outputs}):
                silent.add(id(node))
                inside.append(node)
        return inside

    def is_product(self, value: Value, total: Node) -> bool:
        """Whether ``value`` comes from an inserted product that nothing but ``total`` needs."""
        reader = total
        while (maker := self.producers.get(value.id)) and id(maker) in self.source:
            if any(r is not reader for r in self.readers[value.id]):
                return False
            if facts(maker.name).product:
                return True
            value, reader = self.source[id(maker)], maker
        return False

    def repeats(self, node: Node, source: Value) -> bool:
        """Whether an operation is applied to its own result and changes nothing there, as ReLU after ReLU."""
        v = source
        while v.id in self.producers:
            before = self.producers[v.id]
            if before.name == node.name:
                options = [
                    {k: x for k, x in n.arguments.items() if k != "self"} for n in (node, before)
                ]
                return facts(node.name).inserted == "idempotent" and options[0] == options[1]
            if id(before) not in self.source:
                return False
            v = self.source[id(before)]
        return False
