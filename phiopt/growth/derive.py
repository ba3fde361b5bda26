"""Derive a growth map: trace both models, pair their operations, follow the axes, read the index maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations

import numpy as np
from torch import Tensor, nn

from phiopt._inputs import Inputs, main_of, mapped, with_main
from phiopt._modules import state_of, unsaved
from phiopt._types import Lift
from phiopt.growth import rules as _rules  # noqa: F401  (registers every operation)
from phiopt.growth.align import Block, Step, align
from phiopt.growth.axes import Term, fixed
from phiopt.growth.branches import Branches
from phiopt.growth.catalogue import facts
from phiopt.growth.classes import match_classes
from phiopt.growth.contents import MapContents
from phiopt.growth.correspond import Correspondence
from phiopt.growth.decided import decide_by_constants
from phiopt.growth.errors import AlignmentError
from phiopt.growth.example import accepted, recorded
from phiopt.growth.factors import settle_factors
from phiopt.growth.given import check_traceable
from phiopt.growth.graph import Node, Trace
from phiopt.growth.inserted import Inserted
from phiopt.growth.insertion import Insertions
from phiopt.growth.left_out import leave_out, omit
from phiopt.growth.lifted import Moves, between_declared_sizes, lifted
from phiopt.growth.named import Named, named
from phiopt.growth.operations import apply
from phiopt.growth.optional import check_gone
from phiopt.growth.options import compare_constants
from phiopt.growth.pairs import Axis, Pair
from phiopt.growth.placing import check_injective, match_unused, placement
from phiopt.growth.repeated import unrepeated
from phiopt.growth.resampled import settle_tables
from phiopt.growth.trace import aliases_of, names_of
from phiopt.growth.unit_plan import demands, settle_zeros


def derive(
    teacher: nn.Module,
    student: nn.Module,
    lift: Lift | None,
    classes: Sequence[int] | Tensor | None,
    inputs: Inputs | None,
    correspondence: Mapping[str, str] | None,
) -> MapContents:
    """What a map is made of; see `GrowthMap.between`."""
    check_traceable(teacher, student, inputs)
    names = named(teacher, student, correspondence)
    given: Inputs
    if inputs is None:
        given, small = accepted(teacher, None, "teacher")
    else:
        given = mapped(lambda x: x.detach().to("cpu"), inputs[:2])
        small = recorded(teacher, given, "teacher")
    psi, made, large = lifted(student, given, lift)
    example = main_of(given)
    moves = Moves.of(psi, example, made)
    try:
        large, (state, inserted, chosen, axis) = _matched_at_some_size(
            small, large, student, moves, with_main(given, made), classes, names
        )
    except AlignmentError as error:
        resize = between_declared_sizes(teacher, student, example) if lift is None else None
        if resize is not None and resize != psi:
            with suppress(AlignmentError, ValueError):
                return derive(teacher, student, resize, classes, inputs, correspondence)
        _check_recurrent(teacher, student, error)
        _check_chosen(small, error)
        raise
    inserted = _settled(state, inserted)
    check_gone(state.gone, state_of(teacher))
    placements = {name: placement(place, large.used) for name, place in state.places.items()}
    placements |= match_unused(state, small.used, large.used, names)
    names.check_places(
        {name: place.student for name, place in placements.items()},
        names_of(teacher),
        names_of(student),
    )
    check_injective(placements)
    taken = {p.student for p in placements.values()}
    return MapContents(
        {name: placements[name] for name in small.used if name in placements},
        lift=psi,
        classes=chosen,
        class_axis=axis,
        inexact_reasons=tuple(state.inexact_reasons),
        correspondence=state,
        inserted=inserted,
        fresh={n: tuple(x.shape) for n, x in state_of(student).items() if n not in taken},
        aliases=(aliases_of(teacher), aliases_of(student)),
        unplaced=unsaved(teacher),
        traced=(tuple(example.shape), example.dtype),
        beside=None if isinstance(given, Tensor) else given,
    )


def _check_recurrent(teacher: nn.Module, student: nn.Module, error: AlignmentError) -> None:
    """Name a recurrent layer that has more layers or directions in one model, as the cause of ``error``.

    Recurrent layers are unrolled into operations, whose names would not help the user.

    Raises:
        AlignmentError: There is such a layer.
    """
    others = dict(student.named_modules())
    for name, old in teacher.named_modules():
        new = others.get(name)
        if not (isinstance(old, nn.RNNBase) and isinstance(new, nn.RNNBase)):
            continue
        forms = [
            f"{m.mode} with num_layers={m.num_layers}, bidirectional={m.bidirectional}"
            for m in (old, new)
        ]
        if forms[0] != forms[1]:
            raise AlignmentError(
                f"{name or 'the module itself'} is {forms[0]} in the teacher but {forms[1]} in the student. A "
                "new layer or direction cannot start as the identity, so these must agree",
                "Grow hidden_size",
                teacher=replace(error.teacher, module=name),
                student=replace(error.student, module=name),
                alternatives=[error],
            ) from error


def _check_chosen(trace: Trace, error: AlignmentError) -> None:
    """Name a module that lists the coordinates whose values fulfil a condition, as the cause of ``error``.

    Which operations follow depends on values, as in a loop over the experts that some token chooses.

    Raises:
        AlignmentError: There is such a module.
    """
    chosen = next((node for node in trace.nodes if facts(node.name).chooses), None)
    if chosen is not None:
        raise AlignmentError(
            f"{chosen.module or 'the root module'} runs on what {chosen.name} finds by its values, as a loop over the "
            "experts that some token chooses does. What the two models compute then depends on their "
            "weights, and cannot be paired",
            "Build both models in a form that computes the same for all values; for experts of transformers this is "
            "experts_implementation='batched_mm' or 'grouped_mm'",
            teacher=replace(error.teacher, module=chosen.module),
            student=error.student,
            alternatives=[error],
        ) from error


def _matched_at_some_size(
    small: Trace,
    large: Trace,
    student: nn.Module,
    moves: Moves,
    inputs: Inputs,
    classes: Sequence[int] | Tensor | None,
    names: Named,
) -> tuple[Trace, tuple[Correspondence, list[Inserted], Tensor, int]]:
    """Match at the student's own input size. If that fails, give some axes of its input the teacher's size.

    A recurrent net repeats its operations for each step of a sequence, so the lengths must agree.
    """
    made = main_of(inputs)
    try:
        return large, _matched(small, large, moves, classes, names)
    except AlignmentError as error:
        failures = [error, *error.alternatives]
    grown = [d for d in range(1, made.ndim) if made.shape[d] > moves.example.shape[d]]
    for n in range(1, len(grown) + 1):
        for axes in combinations(grown, n):
            shape = [
                moves.example.shape[d] if d in axes else size for d, size in enumerate(made.shape)
            ]
            try:
                large = recorded(student, with_main(inputs, made.new_zeros(shape)), "student")
                match = _matched(small, large, moves, classes, names)
            except AlignmentError as error:
                failures += [error, *error.alternatives]
                continue
            except ValueError:
                continue
            match[0].inexact_reasons |= {
                f"the input: the student was followed at the teacher's size {shape[1:]}": None
            }
            return large, match
    raise _first_of(failures)


def _matched(
    small: Trace,
    large: Trace,
    moves: Moves,
    classes: Sequence[int] | Tensor | None,
    names: Named,
) -> tuple[Correspondence, list[Inserted], Tensor, int]:
    """The first way to pair the two computations under which every axis agrees."""
    failures: list[AlignmentError] = []
    try:
        old, new = (replace(trace, nodes=unrepeated(trace.nodes)) for trace in (small, large))
        for steps in align(old, new, names):
            try:
                state, inserted = _follow(small, large, steps, moves)
                return state, inserted, *match_classes(state, classes)
            except AlignmentError as error:
                failures.append(error)
    except AlignmentError as error:
        failures.insert(0, error)
    raise _first_of(failures)


def _first_of(failures: Sequence[AlignmentError]) -> AlignmentError:
    """The first failure. The failures of the other ways to pair the operations become its alternatives."""
    first, *others = failures
    different = {str(error): error for error in others if str(error) != str(first)}
    first.alternatives = tuple(different.values())
    return first


def _follow(
    small: Trace, large: Trace, steps: Sequence[Step], moves: Moves
) -> tuple[Correspondence, list[Inserted]]:
    """Follow the axes from the input through every pair of operations."""
    both = ((t, s) for t, s in steps if isinstance(t, Node) and s is not None)
    branches = Branches(small, large, both)
    state = Correspondence(small, large, moves=moves, branches=branches)
    if moves.reason is not None:
        state.inexact_reasons[f"the input: {moves.reason}"] = None
    (t, *others), (s, *others_s) = small.inputs, large.inputs
    axes = [Axis(Term(t.shape[0], s.shape[0]))]
    sizes = zip(moves.index_maps, moves.size, s.shape[1:], strict=True)
    for dim, (indices, whole, size) in enumerate(sizes, start=1):
        if len(indices) > size:
            raise ValueError(
                f"lift={moves.lift!r} makes axis {dim} of the input smaller: {len(indices)} to {size}"
            )
        at_teachers_size = size != whole
        axes.append(
            Axis(Term(size, size) if at_teachers_size else fixed(indices, size, external=True))
        )
    state.start(t, s, Pair(tuple(axes)))
    for t, s in zip(others, others_s, strict=True):  # ψ leaves them as they are
        same = [Axis(fixed(np.arange(n), n, external=True)) for n in t.shape[1:]]
        state.start(t, s, Pair((Axis(Term(t.shape[0], s.shape[0])), *same)))
    insertions = Insertions(state)
    for teacher, student in steps:
        if isinstance(teacher, Node) and student is not None:
            apply(state, teacher, student)
        elif student is not None:
            if id(student) not in branches.new:
                insertions.insert(student)
        elif isinstance(teacher, Block):
            leave_out(state, teacher)
        elif teacher is not None:
            omit(state, teacher)
    paired = {id(student) for teacher, student in steps if teacher is not None}
    for node in large.nodes:
        if id(node) not in paired:
            insertions.check_written(node)
    return state, insertions.done()


def _settled(state: Correspondence, inserted: Sequence[Inserted]) -> list[Inserted]:
    """Decide what needs all operations to be paired, and record what cannot be."""
    settle_tables(state)
    decide_by_constants(state)
    compare_constants(state)
    state.settle_products()
    starts = _settle_norms(state, inserted)
    settle_zeros(state)
    settle_factors(state)
    return starts


def _settle_norms(state: Correspondence, inserted: Sequence[Inserted]) -> list[Inserted]:
    """Let the weights of normalisations take up the change of scale by new units, or record why they cannot."""
    _, reasons, factors = demands(state.norms)
    state.inexact_reasons |= dict.fromkeys(reasons)
    for norm, factor in factors:
        assert norm.weight is not None
        if norm.weight in state.by_student():
            state.by_student()[norm.weight].axes[0].term.rescale[norm.weight, 0] = factor
        inserted = [
            replace(x, value=factor) if x.how == "constant" and x.weight == norm.weight else x
            for x in inserted
        ]
    return list(inserted)
