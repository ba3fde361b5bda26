"""Apply the rule of each pair of aligned operations; register a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from phiopt._checks import instance, part
from phiopt._types import Function
from phiopt.growth import catalogue
from phiopt.growth.axes import Mismatch
from phiopt.growth.call import Call
from phiopt.growth.catalogue import Facts
from phiopt.growth.constants import acts_on_each_coordinate
from phiopt.growth.correspond import Correspondence
from phiopt.growth.errors import AlignmentError
from phiopt.growth.graph import Node, Value
from phiopt.growth.optional import canonical, paired, settle
from phiopt.growth.options import check_operands, pair_operands

POINTWISE = "pointwise"
"""Entry for operations that have none and that PyTorch tags as pointwise."""

Rule = Callable[[Call], None]


def register_rule(*names: str, facts: Facts | None = None) -> Callable[[Rule], Rule]:
    """Teach the growth map an operation: how axes pass it, and what else is known of it.

    Args:
        names: Names of ATen operators without overload (``"roll"``, which is ``"roll_"`` too), or full names of custom
            operators (``"mylib::fused_norm"``).
        facts: All else that is known, such as that the operation is a product. ``None``: what is known already, which
            for a new operation is nothing.

    Returns:
        A decorator of the rule. The rule receives a `Call`: it reads the axes of the arguments, equates what the
        operation makes equal, and gives every output its axes. It raises `Mismatch` to refuse two operations. A later
        rule of a name takes the place of the earlier.

    Raises:
        TypeError: ``names`` are no texts, or ``facts`` no `Facts`, or no function is decorated.
        ValueError: No name is given, or ATen has no operation of a name that is not a full one.

    Examples:
        A linear layer as one operation, which starts as the identity where only the student has it:

        >>> @register_rule("mylib::fused_linear", facts=Facts(product=True, inserted="identity"))
        ... def fused_linear(call):
        ...     x, weight = call.pair("x"), call.pair("weight")
        ...     call.contract(x, 1, weight, 1)
        ...     unit = weight.axes[0]
        ...     if call.has("bias"):
        ...         unit = call.join(unit, call.pair("bias").axes[0])
        ...     call.set([x.axes[0], unit], scales=unit)
    """
    if not names:
        raise ValueError("names: got none, must be at least one operation's name")
    for name in names:
        instance("names", name, str, 'the name of an operation, as in @register_rule("roll")')
        if "::" not in name and name != POINTWISE and not hasattr(torch.ops.aten, name):
            raise ValueError(
                f"names: got {name!r}, which ATen has not; must be an operation of ATen, or the full name of a custom "
                f"operator, such as 'mylib::{name}'"
            )
    if facts is not None:
        instance("facts", facts, Facts, "a phiopt.growth.Facts")

    def add(rule: Rule) -> Rule:
        part("rule", rule, Function)
        for name in map(catalogue.recorded_name, names):
            known = replace(catalogue.facts(name), general=None) if facts is None else facts
            catalogue.declare(name, rule=rule, facts=known)
        return rule

    return add


def apply(state: Correspondence, teacher: Node, student: Node) -> None:
    """Apply the rule of one aligned pair of operations.

    Raises:
        AlignmentError: There is no rule, or the operation equates axes that differ.
    """
    teacher, student = canonical(teacher), canonical(student)
    call = Call(state, teacher, student)
    rule = catalogue.rule(teacher.name)
    if rule is None and acts_on_each_coordinate(teacher.target, teacher.name):
        rule = catalogue.rule(POINTWISE)
    try:
        check_operands(teacher, student)
        settle(state, teacher, student)
        if rule is not None:
            rule(call)
        elif all(_equal(state, t, s) for t, s in _values(teacher, student)):
            call.set_same()
        else:
            raise _without_rule(teacher, student)
        pair_operands(state, teacher, student)
        call.compare_options()
    except Mismatch as error:
        raise AlignmentError.at(teacher, student, str(error), error.remedy) from error
    except AlignmentError as error:
        if error.teacher.node is not None:
            raise
        raise AlignmentError.at(teacher, student, error.problem, error.remedy) from error


def _without_rule(teacher: Node, student: Node) -> AlignmentError:
    teach = f"each the operation {teacher.name!r} with phiopt.growth.register_rule"
    if ".parametrizations." not in f".{teacher.module}":
        problem = f"there is no rule for operation {teacher.name!r}"
        return AlignmentError.at(teacher, student, problem, f"T{teach}")
    return AlignmentError.at(
        teacher,
        student,
        "the weight that a parametrization computes cannot grow",
        f"Grow both models without it (torch.nn.utils.parametrize.remove_parametrizations), or t{teach}",
    )


def _equal(state: Correspondence, t: Value, s: Value) -> bool:
    known = state.pairs.get((t.id, s.id))
    return t.shape == s.shape and not (known and any(a.moved for a in known.axes))


def _values(teacher: Node, student: Node) -> Iterable[tuple[Value, Value]]:
    yield from paired(teacher, student)
    yield from zip(teacher.outputs, student.outputs, strict=False)
