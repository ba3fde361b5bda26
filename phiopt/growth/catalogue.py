"""The catalogue of ATen operations: all that growth knows of each, in one entry.

The files of `phiopt.growth.rules` fill it, one for each kind of operation. Nobody else spells an operation's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

import torch

from phiopt._checks import instance, one_of, within
from phiopt.growth.graph import Node

Rule = Callable[[Any], None]
"""Takes the `Call` of two aligned operations."""


@dataclass(frozen=True)
class Lookup:
    """The axis of a table that an operation's indices count along.

    Attributes:
        indices: The argument that holds the indices: a tensor, or a list of them.
        table: The argument that is read.
        dim: The axis of the table, or the name of the argument that holds it. ``None``: the place in the list of
            indices is the axis.
    """

    indices: str
    table: str = "self"
    dim: int | str | None = "dim"

    def axis(self, node: Node, position: int) -> int:
        """The axis that the index at this ``position`` in the list counts along."""
        if self.dim is None:
            return position
        return node.arguments[self.dim] if isinstance(self.dim, str) else self.dim


@dataclass(frozen=True)
class Facts:
    """What is known of an operation besides its rule. Each default is that of an operation nobody has described.

    Attributes:
        product: It multiplies weights with units and sums. So it is linear in its parameters, and a unit whose incoming
            weights are the mean of other units' weights has the mean of their values.
        linear: It adds, averages or regroups values. A unit that is the mean of other units stays it.
        neutral: By argument, the value of a parameter with which the operation passes on its other operand. A parameter
            of this kind may exist in one of the models alone.
        optional: By argument, the value of a parameter that is the same as no parameter. The default holds for the
            layers of PyTorch: a weight of 1, a bias of 0.
        inserted: What makes an operation that only the student has the identity. ``"identity"``: an identity matrix as
            weight and a bias of zero. ``"statistics"``: a weight and a bias that undo its running statistics.
            ``"nothing"``: it changes no value. ``"idempotent"``: the same operation before it. ``None``: nothing does,
            and the map says so.
        branches: The two operands of a sum. Where only the student has the sum, one of them is the stream, and the
            other a residual branch that starts at zero. Where only the teacher has it, the later operand stands for it.
        regroups: It changes nothing but the shape of its first tensor, whose values keep their order or repeat.
        moves: It computes nothing: each coordinate of its result is one of its tensors', or padding.
        part: The arguments that say which part of its tensor it takes.
        against_whole: ``(pair of the whole tensors, the student's node) -> pair``, where the teacher takes a tensor
            whole and the student a part of it.
        lookup: Where its indices count.
        measured: Whole numbers among its options that change values and not which coordinates meet.
        meanings: By option, ``node -> meaning``, where the value alone does not say what it means. Options with equal
            meanings are the same. One whose meaning is always ``None`` is not compared.
        masks: Tensors that choose coordinates. Beside them a constant of one coordinate is a number.
        reverse: The operation that is the same with its operands exchanged, for numbers that come first.
        general: ``(name, arguments -> arguments)`` of the operation that this one is a special case of.
        copies: It is its first tensor again, and is not recorded.
        joins: It joins a list of tensors and skips those of shape ``(0,)``. What it makes of one tensor is a copy.
        creates: It reads no more than the shape of its tensors.
        overwrites: It writes its result over ``self``, which it does not read.
        factors: Two arguments of which either being zero makes the result zero, if the others cannot be made up.
        chooses: It lists the coordinates whose values fulfil a condition, so that the shape of its result is a value.
        reorders: It puts coordinates in another order. The student may lack it, and the map says so.
        repeats: It repeats each coordinate of the axis ``dim`` as often as ``repeats`` says. One model may lack it.

    Raises:
        TypeError, ValueError: ``inserted`` is none of these words, or a value of ``neutral`` or ``optional`` is no
            number.
    """

    product: bool = False
    linear: bool = False
    neutral: Mapping[str, float] = field(default_factory=dict)
    optional: Mapping[str, float] = field(default_factory=lambda: {"weight": 1.0, "bias": 0.0})
    inserted: Literal["identity", "statistics", "nothing", "idempotent"] | None = None
    branches: tuple[str, str] | None = None
    regroups: bool = False
    moves: bool = False
    part: tuple[str, ...] = ()
    against_whole: Callable[[Any, Node], Any] | None = None
    lookup: Lookup | None = None
    measured: frozenset[str] = frozenset()
    meanings: Mapping[str, Callable[[Node], Any]] = field(default_factory=dict)
    masks: tuple[str, ...] = ()
    reverse: str | None = None
    general: tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]]] | None = None
    copies: bool = False
    joins: bool = False
    creates: bool = False
    overwrites: bool = False
    factors: tuple[str, ...] = ()
    chooses: bool = False
    repeats: bool = False
    reorders: bool = False

    def __post_init__(self) -> None:
        if self.inserted is not None:
            one_of("inserted", self.inserted, ("identity", "statistics", "nothing", "idempotent"))
        for name, values in (("neutral", self.neutral), ("optional", self.optional)):
            instance(name, values, Mapping, "a mapping of argument names to numbers")
            for argument, value in values.items():
                within(f"{name}[{argument!r}]", value, -inf, inf)


@dataclass(frozen=True)
class Operation:
    """One entry: a rule, where there is one, and what else is known."""

    rule: Rule | None = None
    facts: Facts = Facts()


OPERATIONS: dict[str, Operation] = {}
ALIASES: dict[str, str] = {}
"""The name under which an operation is recorded, by other names that PyTorch has for it."""
_UNKNOWN = Operation()


def declare(*names: str, rule: Rule | None = None, facts: Facts = _UNKNOWN.facts) -> None:
    """Enter operations by name; a later entry of a name takes the place of the earlier one."""
    OPERATIONS.update(dict.fromkeys(names, Operation(rule, facts)))


def alias(*others: str, of: str) -> None:
    """Record the operations ``others`` under the name ``of``."""
    ALIASES.update(dict.fromkeys(others, of))


def operator_name(operator: torch._ops.OpOverload) -> str:
    """The name of an operation of ATen; the full name, such as ``mylib::gate``, of any other."""
    name = operator.overloadpacket.__name__
    return name if operator.namespace == "aten" else f"{operator.namespace}::{name}"


def recorded_name(name: str) -> str:
    """The name under which PyTorch's operation ``name`` is recorded: in place and aliases are the same operation."""
    name = name[:-1] if name.endswith("_") and not name.startswith("__") else name
    return ALIASES.get(name, name)


def facts(name: str) -> Facts:
    """What is known of the operation ``name``."""
    return OPERATIONS.get(name, _UNKNOWN).facts


def rule(name: str) -> Rule | None:
    """How axes pass the operation ``name``, if anybody has said."""
    return OPERATIONS.get(name, _UNKNOWN).rule


def skipped(shape: Sequence[int], joined: Sequence[int]) -> bool:
    """Whether ``torch.cat`` skips a tensor of this ``shape`` in making one of the shape ``joined``.

    A tensor of shape ``(0,)`` joins others of any rank and adds nothing. An empty key/value cache is one.
    """
    return tuple(shape) == (0,) and len(joined) != 1
