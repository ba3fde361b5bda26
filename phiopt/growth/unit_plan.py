"""Plans of new units that keep the function.

Each leaf axis, the units of a layer, has a plan: which old unit a new unit copies along output axes, and with which
share of the old unit's weight it is read along input axes. Plans of leaves compose to plans of tensors' axes as the
axes do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from phiopt.growth.axes import Indices, ParameterAxis, Term
from phiopt.growth.correspond import Correspondence
from phiopt.growth.index_map import index_map, leaves, positions
from phiopt.growth.pairs import FRESH, MEAN, ZERO, Norm
from phiopt.growth.unify import find


@dataclass(frozen=True)
class Plan:
    """The plan of an axis: arrays over the student's coordinates.

    Attributes:
        source: The teacher's coordinate that each is or copies; or FRESH, MEAN or ZERO.
        share: The factor with which each is read; 0 if it is not read.
        twin: Of paired fresh units, the first of the pair; else the unit itself.
        sign: The sign with which each of a pair is read; 0 for others.
    """

    source: Indices
    share: NDArray[np.float64]
    twin: Indices
    sign: NDArray[np.float64]


Planner = Callable[[Term, int], Plan]
"""``(leaf, demand) -> Plan``. The demand is what a normalisation over the leaf needs of new units: MEAN, ZERO, 0 for
copies, or FRESH for nothing."""


def plain(leaf: Term, demand: int = FRESH) -> Plan:
    """Old units stay. New units are what the demand says, and no old unit reads them."""
    source = np.full(leaf.s, FRESH, dtype=np.int64)
    source[index_map(leaf)] = np.arange(leaf.t)
    share = (source >= 0).astype(float)
    new = np.flatnonzero(source < 0)
    if demand == 0 or leaf.copied:  # every old unit equally often
        source[new] = np.arange(len(new)) % leaf.t
    elif demand != FRESH:
        source[new] = demand
    return Plan(source, share, np.arange(leaf.s), np.zeros(leaf.s))


def halves(new: Indices, plan: Plan) -> Plan:
    """Pair the units ``new``: twins are equal and are read with opposite signs. A unit left over is not read."""
    pairs = len(new) // 2
    twin, sign = plan.twin.copy(), plan.sign.copy()
    twin[new[pairs : 2 * pairs]] = new[:pairs]
    sign[new[:pairs]], sign[new[pairs : 2 * pairs]] = 1.0, -1.0
    return Plan(plan.source, plan.share, twin, sign)


class UnitPlans:
    """The plans of all axes of a correspondence, by a planner for the leaves."""

    def __init__(self, state: Correspondence, planner: Planner) -> None:
        self._planner = planner
        self._demands = demands(state.norms)[0]
        self._leaves: dict[int, Plan] = {}

    def plan(self, term: Term) -> Plan:
        """The plan of an axis."""
        node = find(term)
        if not node.parts or any(find(part).fewer for part in node.parts):
            if id(node) not in self._leaves:
                demand = FRESH if node.same else self._demands.get(id(node), FRESH)
                self._leaves[id(node)] = self._planner(node, demand)
            return self._leaves[id(node)]
        parts = [self.plan(p) for p in node.parts]
        if node.kind == "prod":
            return _outer(node.parts, parts)
        t_at, s_at = positions(node)
        out = Plan(
            np.empty(node.s, np.int64),
            np.empty(node.s),
            np.empty(node.s, np.int64),
            np.empty(node.s),
        )
        for p, t, s in zip(parts, t_at, s_at, strict=True):
            out.source[s] = np.where(p.source >= 0, np.append(t, 0)[p.source], p.source)
            out.share[s], out.twin[s], out.sign[s] = p.share, s[p.twin], p.sign
        return out


def _outer(terms: Iterable[Term], plans: list[Plan]) -> Plan:
    source, share, twin, sign = np.zeros(1, np.int64), np.ones(1), np.zeros(1, np.int64), np.ones(1)
    for term, p in zip(terms, plans, strict=True):
        a, b = source[:, None], p.source[None]
        source = np.where((a >= 0) & (b >= 0), a * term.t + b, np.minimum(a, b)).ravel()
        share = (share[:, None] * p.share[None]).ravel()
        twin = (twin[:, None] * term.s + p.twin[None]).ravel()
        sign = (sign[:, None] * np.where(p.source >= 0, 1.0, p.sign)[None]).ravel()
    return Plan(source, share, twin, np.where(source >= 0, 0.0, sign))


Marks: TypeAlias = tuple[NDArray[np.bool_], NDArray[np.float64]]


def marks(term: Term, axis: ParameterAxis) -> Marks:
    """How the rows of a parameter along ``axis`` keep the function.

    Returns:
        Which new rows must be zero, and the factors of the others; shape ``(s,)`` each.
    """
    zero_new, rescale = _own_marks(term, axis)
    s, g = _part_marks(term, axis)
    return zero_new | s, rescale * g


def _own_marks(term: Term, axis: ParameterAxis) -> Marks:
    zero_new = np.zeros(term.s, dtype=bool)
    if axis in term.zero_new:
        zero_new[:] = True
        zero_new[index_map(term)] = False
    return zero_new, np.full(term.s, term.rescale.get(axis, 1.0))


def _part_marks(term: Term, axis: ParameterAxis) -> Marks:
    """The marks of the blocks of an axis. Blocks of other axes that equal them have their own marks."""
    node = find(term)
    zero_new, rescale = np.zeros(term.s, dtype=bool), np.ones(term.s)
    if not node.parts:
        return zero_new, rescale
    own = [(_own_marks(p, axis), _part_marks(p, axis)) for p in node.parts]
    parts = [(a | c, b * d) for (a, b), (c, d) in own]
    if node.kind == "prod":
        zero_new, rescale = np.zeros(1, dtype=bool), np.ones(1)
        for s, g in parts:
            zero_new, rescale = (
                (zero_new[:, None] | s[None]).ravel(),
                (rescale[:, None] * g[None]).ravel(),
            )
    else:
        for (s, g), at in zip(parts, positions(node)[1], strict=True):
            zero_new[at], rescale[at] = s, g
    return zero_new, rescale


def settle_zeros(state: Correspondence) -> None:
    """Mark the blocks of parameters' axes in place of axes that are put together of them, as turned heads are.

    What also reads such an axis elsewhere cannot share an old coordinate with a new one, for the new one is zero.
    """
    places = state.places.values()
    read = {id(leaf) for p in places for d in p.input_axes for leaf in leaves(p.axes[d].term)}
    _check_statistics(state)
    for term, origin in state.zeroed:
        for leaf in leaves(term):
            leaf.distinct |= id(leaf) in read
        whole = state.by_student()[origin[0]].axes[origin[1]].term
        zeroed = blocks(whole, term)
        for block in zeroed:
            block.zero_new.add(origin)
        if not zeroed and term.t != term.s:
            state.inexact_reasons[
                f"{origin[0]}: new coordinates of a contraction are put together in a way that cannot be zeroed"
            ] = None


def _check_statistics(state: Correspondence) -> None:
    """Record the statistics that copies would keep, over units of which new ones must be zero."""
    wanted, _, _ = demands(state.norms)
    for norm in state.norms:
        made = [term for term, origin in state.zeroed if origin in norm.made_by]
        zeroed = {id(leaf) for term in made for leaf in leaves(term) if not leaf.same}
        if any(
            id(leaf) in zeroed and wanted.get(id(leaf), FRESH) not in (FRESH, ZERO)
            for leaf in leaves(norm.term)
        ):
            where = norm.module or "the root module"
            state.inexact_reasons[
                f"{where}: {norm.kind} over units that are contracted behind it, so that new ones must be zero, and no "
                "weight between makes them so"
            ] = None


def blocks(whole: Term, term: Term) -> list[Term]:
    """The blocks of the axis ``whole`` that ``term`` is made of."""
    if find(whole) is find(term):
        return [whole]
    inside, todo = {id(whole)}, [whole]
    while todo:
        parts = find(todo.pop()).parts
        todo += parts
        inside |= {id(part) for part in parts}
    out, todo = [], [term]
    while todo:
        block = todo.pop()
        if id(block) in inside:
            out.append(block)
        else:
            todo += find(block).parts if block.lead is None else block.parts
    return out


def demands(norms: Iterable[Norm]) -> tuple[dict[int, int], list[str], list[tuple[Norm, float]]]:
    """What statistics over growing axes need of new units.

    Equally many copies of every old unit leave means and variances as they are. The new size may be no multiple of the
    old. Then, for LayerNorm, the mean of the old units keeps the mean, and the variance up to the factor t/s, which the
    layer's weight takes up. For RMSNorm, zeros do the same.

    Returns:
        The demand by the leaf's id; reasons why some demands cannot be met; weights to multiply, with their factors.
    """
    wanted: dict[int, int] = {}
    reasons: list[str] = []
    factors: list[tuple[Norm, float]] = []
    for norm in norms:
        what = f"{norm.module or 'the root module'}: {norm.kind}"
        grown = {id(leaf): leaf for leaf in leaves(norm.term) if leaf.t != leaf.s}
        if any(leaf.external for leaf in grown.values()):
            reasons.append(f"{what} over an axis of the input that grows")
            continue
        demand = _demand(norm, list(grown.values()))
        if demand is None:
            reasons.append(
                f"{what} over {norm.term.t} -> {norm.term.s} coordinates; kept only where each "
                "layer's new size is a multiple of the old"
            )
            continue
        if any(wanted.get(i, demand) != demand for i in grown):
            reasons.append(f"{what} needs other new units than the normalisations before it")
            continue
        wanted |= dict.fromkeys(grown, demand)
        if demand == 0 or norm.keeps is None:
            continue
        if norm.weight is None:
            reasons.append(f"{what} without a weight that could take up the change of scale")
            continue
        factors.append((norm, (norm.term.t / norm.term.s) ** 0.5))
        reasons.append(
            f"{what} over {norm.term.t} -> {norm.term.s} coordinates; its {norm.keeps} is kept, its "
            "output up to the layer's eps, which cannot be rescaled with it"
        )
    return wanted, reasons, factors


def _demand(norm: Norm, grown: Sequence[Term]) -> int | None:
    """What new units of the ``grown`` leaves have to be for a statistic; 0 for copies, ``None`` if nothing keeps it."""
    if not norm.copies:
        return norm.otherwise
    if all(leaf.t and leaf.s % leaf.t == 0 for leaf in grown):
        return 0
    whole = len(grown) == 1 and find(norm.term).size == grown[0].size
    impossible = norm.otherwise == FRESH or (norm.otherwise == MEAN and not norm.averages)
    return None if impossible or not whole else norm.otherwise
