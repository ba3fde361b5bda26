"""Parameters that only one of both models has: a bias or an affine part that the other's layer is built without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor
from torch.utils._pytree import tree_leaves

from phiopt.growth.axes import Mismatch
from phiopt.growth.catalogue import facts
from phiopt.growth.correspond import Correspondence
from phiopt.growth.errors import AlignmentError, Side
from phiopt.growth.graph import Node, Trace, Value


def canonical(node: Node) -> Node:
    """The same operation as the more general one that it is a case of: a product as one whose bias is not given."""
    general = facts(node.name).general
    if general is None:
        return node
    name, arguments = general
    return replace(node, name=name, arguments=arguments(node.arguments))


def kind(node: Node) -> str:
    """The name under which operations are compared."""
    general = facts(node.name).general
    return node.name if general is None else general[0]


def acts(node: Node) -> bool:
    """Whether a parameter can keep this operation from doing anything."""
    return bool(facts(node.name).neutral)


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
    optional = facts(teacher.name).optional
    for name, old in teacher.arguments.items():
        new = student.arguments.get(name)
        if isinstance(old, Value) == isinstance(new, Value):
            continue
        if isinstance(old, Value):
            tensor, other, roles = old, new, ("teacher", "student")
            trace, record = state.teacher, state.gone
        else:
            assert isinstance(new, Value)
            tensor, other, roles = new, old, ("student", "teacher")
            trace, record = state.student, state.added
        parameter = parameter_of(trace, tensor)
        if other is not None or name not in optional or parameter is None:
            raise Mismatch(f"{name} is a tensor in the {roles[0]} but {other} in the {roles[1]}")
        record[parameter] = optional[name]


def operand(trace: Trace, node: Node) -> tuple[str, float] | None:
    """A parameter that can keep the operation from doing anything to its other operand, and the value with which it
    does."""
    for argument, value in facts(node.name).neutral.items():
        tensor = node.arguments.get(argument)
        parameter = parameter_of(trace, tensor) if isinstance(tensor, Value) else None
        if parameter is not None:
            return parameter, value
    return None


def parameter_of(trace: Trace, value: Value) -> str | None:
    """The parameter that ``value`` is, seen through what regroups its axes."""
    producers = {o.id: n for n in trace.nodes for o in n.outputs}
    while value.id in producers and facts(producers[value.id].name).regroups:
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
                f"are not all {neutral:g}",
                "Build the student's layer with it, as bias=True or affine=True do",
                teacher=Side.of_tensor(name, tuple(value.shape)),
            )
