"""Parameters that only one of both models has: a bias or an affine part that the other's layer is built without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor
from torch.utils._pytree import tree_leaves

from phiopt.growth.axes import Mismatch
from phiopt.growth.correspond import AlignmentError, Correspondence
from phiopt.growth.trace import Node, Trace, Value

NEUTRAL = {"weight": 1.0, "bias": 0.0, "self": 0.0}
"""Values of the optional arguments of an operation with which it is the one without them."""
ACTS = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}
"""Values of a parameter with which these operations do nothing to the other operand."""
REGROUPS = {"view", "t", "transpose", "permute", "unsqueeze", "squeeze", "expand", "repeat"}


def kind(node: Node) -> str:
    """The name under which operations are compared: a product without its bias is the one with it."""
    return "addmm" if node.name == "mm" else node.name


def canonical(node: Node) -> Node:
    """The same operation with its bias as an argument that is not given."""
    if node.name != "mm":
        return node
    factors = {"mat1": node.arguments["self"], "mat2": node.arguments["mat2"]}
    return replace(node, name="addmm", arguments={"self": None, **factors, "beta": 1, "alpha": 1})


def paired(teacher: Node, student: Node) -> Iterator[tuple[Value, Value]]:
    """The tensors that both operations take, by the arguments' names."""
    for name, old in teacher.arguments.items():
        values = (
            [x for x in tree_leaves(a) if isinstance(x, Value)]
            for a in (old, student.arguments.get(name))
        )
        yield from zip(*values, strict=False)


def settle(state: Correspondence, teacher: Node, student: Node) -> None:
    """Record the parameters that only one of two aligned operations takes.

    Raises:
        Mismatch: One of them takes a tensor which is no such parameter, and the other none.
    """
    for name, old in teacher.arguments.items():
        new = student.arguments.get(name)
        if isinstance(old, Value) == isinstance(new, Value):
            continue
        if isinstance(old, Value):
            held, other, whose = old, new, ("teacher", "student")
            trace, record = state.teacher, state.gone
        else:
            assert isinstance(new, Value)
            held, other, whose = new, old, ("student", "teacher")
            trace, record = state.student, state.added
        parameter = parameter_of(trace, held)
        if other is not None or name not in NEUTRAL or parameter is None:
            raise Mismatch(f"{name} is a tensor in the {whose[0]} but {other} in the {whose[1]}")
        record[parameter] = NEUTRAL[name]


def operand(trace: Trace, node: Node) -> str | None:
    """The parameter which an operation of `ACTS` adds to, or multiplies with, its other operand."""
    first, second = (node.arguments.get(n) for n in ("self", "other"))
    sides = [second] if node.name in ("sub", "div") else [second, first]
    found = (parameter_of(trace, x) for x in sides if isinstance(x, Value))
    return next((x for x in found if x is not None), None) if node.name in ACTS else None


def parameter_of(trace: Trace, value: Value) -> str | None:
    """The parameter that ``value`` is, seen through what regroups its axes."""
    producers = {o.id: n for n in trace.nodes for o in n.outputs}
    while value.id in producers and producers[value.id].name in REGROUPS:
        value = producers[value.id].inputs[0]
    return trace.tensors.get(value.id)


def check_gone(gone: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
    """What the student's layers are built without does nothing in the teacher.

    Raises:
        AlignmentError: It does; the message names it.
    """
    for name, neutral in gone.items():
        value = tensors[name]
        if value.is_meta or not bool((value.detach() == neutral).all()):
            raise AlignmentError(
                f"the teacher's {name!r} has no counterpart: the student's layer is built without it, and its values "
                f"are not all {neutral:g}; build the student's layer with it, as bias=True or affine=True do"
            )
