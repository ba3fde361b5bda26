"""Parameters that only one of the models has: a bias, or an affine part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from phiopt.growth.axes import Mismatch
from phiopt.growth.catalogue import facts
from phiopt.growth.correspond import Correspondence
from phiopt.growth.errors import AlignmentError, Side
from phiopt.growth.graph import Node, Trace, Value
from phiopt.growth.nested import leaves


def canonical(node: Node) -> Node:
    """The operation as a case of the more general one: a product becomes a product whose bias is not given."""
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
    """Whether the operation passes on its operand unchanged for some value of a parameter."""
    return bool(facts(node.name).neutral)


def paired(teacher: Node, student: Node) -> Iterator[tuple[Value, Value]]:
    """The teacher's and the student's tensors of each argument."""
    for name, old in teacher.arguments.items():
        values = (
            [x for x in leaves(a) if isinstance(x, Value)]
            for a in (old, student.arguments.get(name))
        )
        yield from zip(*values, strict=False)


def settle(state: Correspondence, teacher: Node, student: Node) -> None:
    """Record the parameters that only one of two aligned operations takes.

    Raises:
        Mismatch: Only one operation takes a tensor, and the tensor is no optional parameter.
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
    """A parameter of the operation, and the value of it with which the operation passes on its other operand."""
    for argument, value in facts(node.name).neutral.items():
        tensor = node.arguments.get(argument)
        parameter = parameter_of(trace, tensor) if isinstance(tensor, Value) else None
        if parameter is not None:
            return parameter, value
    return None


def parameter_of(trace: Trace, value: Value) -> str | None:
    """The name of the parameter that ``value`` is, or a view of which it is; ``None`` if it is none."""
    producers = trace.producers
    while value.id in producers and facts(producers[value.id].name).regroups:
        value = producers[value.id].inputs[0]
    return trace.tensors.get(value.id)


def check_gone(gone: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
    """Check that the parameters that the student's layers lack do nothing in the teacher.

    Raises:
        AlignmentError: One does something; the message names it.
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
