"""Compare the options of two paired operations: arguments that are no tensors and no sizes and that no rule reads.

A *measured* option, such as a slope, an eps, a factor or a mode, changes values. If it differs, there is a map, and
the map says why it is not exact. A *counted* option, such as an axis, a step, a kernel or a shift, changes which
coordinates meet. If it differs, there is no map, and the models are refused. Constants that are tensors are compared
when all axes are decided: each coordinate of the teacher's with the student's coordinate that stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from phiopt.growth.axes import Mismatch
from phiopt.growth.catalogue import facts
from phiopt.growth.constants import acts_on_each_coordinate
from phiopt.growth.correspond import Correspondence
from phiopt.growth.graph import Node, Value
from phiopt.growth.index_map import index_map
from phiopt.growth.pairs import Axis, ConstantPair

_IDLE = {"momentum", "sparse", "scale_grad_by_freq", "cudnn_enabled", "stable", "half_to_float", "non_blocking", "copy",
         "implicit", "device", "layout", "pin_memory", "memory_format", "generator", "benchmark", "deterministic",
         "allow_tf32"}  # fmt: skip
"""Options that change no output in evaluation mode."""
_SIZES = {"size", "sizes", "shape", "normalized_shape", "output_size", "split_size", "split_sizes", "sections",
          "chunks", "N", "C", "HxW", "last_dim_size"}  # fmt: skip
"""Arguments that follow from the shapes of inputs and outputs."""
_DIMS = {"dim", "dims", "dim0", "dim1", "dimension", "axis"}
_SLIDING = {"kernel_size", "stride", "padding", "dilation", "output_padding"}
_REMEDY = "give the student the teacher's"

SAME = 1e-10
"""Relative difference up to which two numbers are the same."""
ROUNDINGS = 8
"""The same for constants, in units of the rounding of their dtype, if that is more."""
MASKING = 1e4
"""Constants of at least this size only mask what they are added to. Beside them, rounding is that of the others."""


@dataclass(frozen=True)
class Difference:
    """An option that differs.

    Attributes:
        problem: The operation and the option, with both values.
        remedy: What settles it.
        counted: Whether the option counts coordinates.
    """

    problem: str
    remedy: str
    counted: bool = True

    @property
    def text(self) -> str:
        return f"{self.problem}; {self.remedy}"

    def mismatch(self) -> Mismatch:
        return Mismatch(self.problem, self.remedy[:1].upper() + self.remedy[1:])


def differences(teacher: Node, student: Node, read: Iterable[str] = ()) -> Iterator[Difference]:
    """The options of two paired operations that differ, except those that a rule has ``read``."""
    each = acts_on_each_coordinate(teacher.target, teacher.name)
    for argument in (*teacher.target._schema.arguments, *student.target._schema.arguments):
        name = argument.name
        if name in read or _idle(teacher, name) or _lacking(teacher, student, name):
            continue
        if not same_option(teacher, student, name):
            whole = "int" in str(argument.type).lower()
            counted = whole and not each and name not in facts(teacher.name).measured
            yield replace(difference(teacher, student, name), counted=counted)


def difference(teacher: Node, student: Node, name: str) -> Difference:
    """The difference of the option ``name``."""
    t, s = (n.arguments.get(name) for n in (teacher, student))
    where = f" ({teacher.module or 'the root module'!r} there)" * (teacher.module != student.module)
    return Difference(
        f"{teacher.name} with {name}={_shown(t)} in the teacher{where} but {_shown(s)} in the student",
        f"{_REMEDY} {name}",
    )


def same_option(teacher: Node, student: Node, name: str) -> bool:
    """Whether an argument means the same in teacher and student, however it is written: an axis may be counted from
    either end."""
    t, s = (_meaning(n, name) for n in (teacher, student))
    return _equal(t, s, name)


def check_operands(teacher: Node, student: Node) -> None:
    """Check that an argument is a tensor in both operations or in none.

    Raises:
        Mismatch: An argument, or a member of a list, is a tensor in only one of the models.
    """
    for name, t in teacher.arguments.items():
        s = student.arguments.get(name)
        uneven = isinstance(t, list) and isinstance(s, list) and len(t) != len(s)
        if uneven or _lacking(teacher, student, name):
            continue
        for a, b in zip(_listed(t), _listed(s), strict=False):
            if isinstance(a, Value) != isinstance(b, Value):
                option = difference(teacher, student, name)
                remedy = f"{option.remedy}, or register the tensor in both models"
                raise replace(option, remedy=remedy).mismatch()


def pair_operands(state: Correspondence, teacher: Node, student: Node) -> None:
    """Pair all tensors that both operations read, and note their constants for `compare_constants`.

    Raises:
        AlignmentError: Two tensors do not correspond.
    """
    for name, t in teacher.arguments.items():
        s = student.arguments.get(name)
        ts, ss = _listed(t), _listed(s)
        if len(ts) != len(ss):
            continue
        for i, (a, b) in enumerate(zip(ts, ss, strict=True)):
            if not (isinstance(a, Value) and isinstance(b, Value)):
                continue
            if name == "self" and facts(teacher.name).overwrites:
                continue
            pair = state.pair(a, b)
            old, new = state.teacher.constants.get(a.id), state.student.constants.get(b.id)
            if old is not None and new is not None:
                state.constants.append(
                    ConstantPair(
                        teacher.name,
                        name,
                        (teacher.module, student.module),
                        pair,
                        (old, new),
                        _picked_axis(state, teacher, student, name, i),
                    )
                )


def compare_constants(state: Correspondence) -> None:
    """Record the constants that differ at the teacher's coordinates as reasons why the map is not exact."""
    for c in state.constants:
        t, s = (v.cpu() for v in c.values)
        for d, axis in enumerate(c.pair.axes):
            s = s.index_select(d, torch.from_numpy(index_map(axis.term)))
        if c.picks is not None and not t.is_floating_point() and t.dtype != torch.bool:
            old, new = c.picks.size
            t, s = torch.from_numpy(index_map(c.picks.term))[t % max(old, 1)], s % max(new, 1)
        unequal = ~equal_constants(t, s)
        if not unequal.any():
            if not torch.equal(t.nan_to_num(), s.nan_to_num()):
                state.rounding = max(state.rounding, _rounding(t, s))
            continue
        at = tuple(int(i) for i in unequal.nonzero()[0])
        where = f" ({c.modules[0] or 'the root module'!r} there)" * (c.modules[0] != c.modules[1])
        state.inexact_reasons[
            f"{c.modules[1] or 'the root module'}: {c.operation} with the constant {c.option}, at {list(at)} "
            f"{t[at].item():.6g} in the teacher{where} but {s[at].item():.6g} in the student; {_REMEDY} constant"
        ] = None


def equal_constants(t: Tensor, s: Tensor) -> Tensor:
    """Where two constants are equal up to their rounding."""
    rtol = max(SAME, ROUNDINGS * _rounding(t, s))
    if t.dtype.is_complex or s.dtype.is_complex:
        return torch.isclose(t.to(torch.complex128), s.to(torch.complex128), rtol=rtol, atol=0.0)
    t, s = t.double(), s.double()
    sizes = t[t.abs() < MASKING].abs()
    largest = float(sizes.max()) if sizes.numel() else 0.0
    return torch.isclose(t, s, rtol=rtol, atol=rtol * largest, equal_nan=True)


def _rounding(*constants: Tensor) -> float:
    """The rounding of the coarsest dtype; 0 for whole numbers."""
    return max(torch.finfo(x.dtype).eps if _numbers(x) else 0.0 for x in constants)


def _numbers(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _picked_axis(state: Correspondence, t: Node, s: Node, name: str, i: int) -> Axis | None:
    """The axis that the indices ``name`` count along; ``None`` if they are no indices."""
    lookup = facts(t.name).lookup
    if lookup is None or lookup.indices != name:
        return None
    table = state.pair(t.arguments[lookup.table], s.arguments[lookup.table])
    return table.axes[lookup.axis(t, i)]


def _lacking(teacher: Node, student: Node, name: str) -> bool:
    given = [n.arguments.get(name) for n in (teacher, student)]
    return name in facts(teacher.name).optional and any(x is None for x in given)


def _idle(node: Node, name: str) -> bool:
    """Whether an option changes no output, or follows from the shapes."""
    return (name in _IDLE or name in _SIZES) and name not in facts(node.name).meanings


def _listed(x: Any) -> list[Any]:
    return list(x) if isinstance(x, list | tuple) else [x]


def _shown(x: Any) -> str:
    return "a tensor" if isinstance(x, Value) else str(x)


def _meaning(node: Node, name: str) -> Any:
    meanings = facts(node.name).meanings
    if name in meanings:
        return meanings[name](node)
    value = node.arguments.get(name)
    if name in _DIMS and not isinstance(value, Value):
        rank = len(node.inputs[0].shape) if node.inputs else 0
        listed = range(rank) if value is None or value == [] else _listed(value)
        return sorted(d % max(rank, 1) for d in listed)
    if name in _SLIDING and isinstance(value, list):
        if name == "stride" and not value:
            value = node.arguments.get("kernel_size")
        return value[0] if isinstance(value, list) and len(set(value)) == 1 else value
    if isinstance(value, torch.dtype):
        return _kind(value)
    return value


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_floating_point:
        return "numbers"
    return "complex" if dtype.is_complex else "truth" if dtype == torch.bool else "whole numbers"


def _equal(t: Any, s: Any, name: str) -> bool:
    if isinstance(t, Value) or isinstance(s, Value):
        return isinstance(t, Value) == isinstance(s, Value)
    if isinstance(t, list | tuple) and isinstance(s, list | tuple):
        return len(t) == len(s) and all(_equal(a, b, name) for a, b in zip(t, s, strict=True))
    if name == "dtype":
        return t is None or s is None or t == s
    if _number(t) and _number(s):
        return math.isclose(t, s, rel_tol=SAME) or (t != t and s != s)
    return bool(t == s)


def _number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)
