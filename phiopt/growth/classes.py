"""Find the axis of the classes, and the student's output of each of the teacher's classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from phiopt.growth.axes import Mismatch, Term, fixed
from phiopt.growth.correspond import Correspondence
from phiopt.growth.errors import AlignmentError, Side
from phiopt.growth.given import classes_of
from phiopt.growth.index_map import index_map
from phiopt.growth.pairs import Axis
from phiopt.growth.unify import find, unify


def match_classes(
    state: Correspondence, classes: Sequence[int] | Tensor | None
) -> tuple[Tensor, int]:
    """Decide the axis of the classes. Returns the student's output of each teacher class, and the axis' number."""
    t, s = state.teacher.outputs[0], state.student.outputs[0]
    if len(t.shape) != len(s.shape):
        raise AlignmentError(
            f"the outputs have shapes {t.shape} in the teacher and {s.shape} in the student",
            "Give both as many axes",
            teacher=Side("", (t.shape,)),
            student=Side("", (s.shape,)),
        )
    axes = state.pair(t, s).axes
    for d, pair in enumerate(axes):
        if pair.term.fewer:
            raise AlignmentError(
                f"the student is smaller than its teacher: axis {d} of the output has size {pair.term.t} in the "
                f"teacher but {pair.term.s} in the student",
                "Give the student at least the teacher's size",
                teacher=Side("", (t.shape,)),
                student=Side("", (s.shape,)),
            )
    axis = _class_axis(state, axes)
    old, new = axes[axis].size if axes else (1, 1)
    if classes is None:
        term = axes[axis].term if axes else Term(1, 1)
        if find(term).kind == "free":  # new classes are no copies of old ones
            first = np.arange(old) if state.moves is None else state.moves.classes((old, new))
            unify(term, fixed(first, new, external=True))
        return torch.from_numpy(index_map(term).copy()), axis
    chosen = classes_of(classes)
    if len(chosen) != old:
        raise ValueError(
            f"classes={chosen.tolist()} must be {old} integers, the student's output of each teacher class"
        )
    if len(chosen.unique()) != old or chosen.min() < 0 or chosen.max() >= new:
        raise ValueError(
            f"classes={chosen.tolist()} must be {old} different indices between 0 and {new - 1}"
        )
    try:
        unify(axes[axis].term, fixed(chosen.numpy(), new, external=True))
    except Mismatch as error:
        raise ValueError(
            f"classes={chosen.tolist()} do not fit the output of {new} classes: {error}"
        ) from error
    made = {id(find(a.term)) for place in state.places.values() for a in place.axes}
    if not find(axes[axis].term).same and id(find(axes[axis].term)) not in made:
        raise ValueError(
            f"classes={chosen.tolist()} change the order of an output that no parameter makes by itself"
        )
    return chosen, axis


def _class_axis(state: Correspondence, axes: Sequence[Axis]) -> int:
    """The number of the output's axis that the last parameter makes, grown or not. Time and pixels come from the input.
    If parameters make no axis, it is the first one that grows."""
    for place in reversed(state.places.values()):
        made = {id(find(axis.term)) for axis in place.axes}
        for d, axis in enumerate(axes):
            if d > 0 and id(find(axis.term)) in made:
                return d
    grown = [d for d, a in enumerate(axes) if a.grown and d > 0]
    return grown[0] if grown else min(1, len(axes) - 1)
