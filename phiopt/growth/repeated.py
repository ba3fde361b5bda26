"""Heads that several others share: each coordinate of an axis, repeated.

Grouped-query attention repeats every head of keys and values for the queries that share it, by ``unsqueeze``,
``expand`` and ``view``. Here these three are one operation. A model in which every query has keys of its own does not
have it. So it is left out when operations are paired, and followed when its result is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from phiopt.growth.axes import Mismatch, Size, Term, prod
from phiopt.growth.catalogue import Facts, declare, facts
from phiopt.growth.graph import Node
from phiopt.growth.pairs import Axis
from phiopt.growth.unify import unify

_NAME = "repeat_each"
declare(_NAME, facts=Facts(linear=True, repeats=True))


def with_repeats(nodes: Sequence[Node]) -> list[Node]:
    """The operations of a trace. Those that repeat each coordinate of an axis are joined to one."""
    readers = Counter(v.id for node in nodes for v in node.inputs)
    makers = {o.id: node for node in nodes for o in node.outputs}
    out: dict[int, Node] = {}
    for node in nodes:
        chain = _chain(node, makers, readers)
        for part in chain:
            out.pop(id(part), None)
        out[id(node)] = _joined(chain) if chain else node
    return list(out.values())


def _chain(node: Node, makers: Mapping[int, Node], readers: Mapping[int, int]) -> list[Node]:
    """The ``unsqueeze``, ``expand`` and ``view`` that end at ``node`` and repeat each coordinate; else nothing."""
    chain = [node]
    for _ in range(2):
        first = chain[0].inputs
        if len(first) != 1 or first[0].id not in makers or readers[first[0].id] != 1:
            return []
        chain.insert(0, makers[first[0].id])
    if [n.name for n in chain] != ["unsqueeze", "expand", "view"] or len(chain[0].inputs) != 1:
        return []
    dim, times = _repeated(chain)
    shape = chain[0].inputs[0].shape
    repeated = [*shape[: dim - 1], shape[dim - 1] * times, *shape[dim:]]
    stretched = [*shape[:dim], times, *shape[dim:]]
    return chain * (dim > 0 and _is(chain[1], stretched) and _is(node, repeated))


def _is(node: Node, shape: Sequence[int]) -> bool:
    return node.outputs[0].shape == tuple(shape)


def _repeated(chain: Sequence[Node]) -> tuple[int, int]:
    """The axis that is stretched, and its length."""
    rank = len(chain[0].outputs[0].shape)
    dim = chain[0].arguments["dim"] % rank
    shape = chain[1].outputs[0].shape
    return dim, shape[dim] if len(shape) == rank else 0


def _joined(chain: Sequence[Node]) -> Node:
    dim, times = _repeated(chain)
    arguments = {"self": chain[0].inputs[0], "repeats": times, "dim": dim - 1, "output_size": None}
    target = torch.ops.aten.repeat_interleave.self_int
    return Node(_NAME, target, arguments, chain[-1].outputs, chain[-1].module)


def unrepeated(nodes: Sequence[Node]) -> list[Node]:
    """The operations that are paired."""
    return [node for node in nodes if not facts(node.name).repeats]


def shared(axis: Axis, times: Size) -> Axis:
    """An axis whose coordinates are repeated so often in the teacher and in the student.

    Fewer repeats in the student need more coordinates: those of the teacher, each several times.

    Raises:
        Mismatch: The numbers do not divide.
    """
    if times[0] <= times[1]:
        return Axis(prod([axis.term, Term(*times)]), axis.source_parameters)
    more = times[0] // times[1]
    old, new = axis.size
    if times[0] % times[1] or new % more or new // more < old:
        raise Mismatch(
            f"each of {old} is used {times[0]} times in the teacher, and each of {new} is used {times[1]} times in the "
            "student, as heads of keys and values are by those of queries",
            f"Use each {times[0]} times in the student too, or n times, where n divides {times[0]}, and give the "
            f"student {old} * {times[0]} / n of them or a multiple",
        )
    groups = Term(old, new // more)
    unify(axis.term, prod([groups, Term(1, more, copied=True)]))
    parts = [groups, Term(more, more), Term(times[1], times[1])]
    return Axis(prod(parts), axis.source_parameters)
