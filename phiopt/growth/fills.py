"""Fills: how the student's new coordinates start, beside those that hold the teacher's values.

Each fill is a function in one registry. `register_fill` adds another. Layers that only the student has start as the
identity under every fill.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phiopt._types import Params
from phiopt.growth.axes import Term
from phiopt.growth.correspond import Correspondence
from phiopt.growth.map import GrowthMap
from phiopt.growth.pairs import FRESH, MEAN, ZERO, TensorPlace
from phiopt.growth.registry import FILLS, OWN, Start, register_fill
from phiopt.growth.resampled import resampled
from phiopt.growth.unify import find
from phiopt.growth.unit_plan import Plan, Planner, UnitPlans, halves, marks, plain


@register_fill("default")
def default(start: Start) -> Params:
    """New coordinates as the student was constructed."""
    return start.map.embed(start.teacher, into=start.student)


@register_fill("matched")
def matched(start: Start) -> Params:
    """As default, but the rows of new classes are rescaled to the root mean square of the old classes' rows."""
    state = _traced(start.map)
    output = state.pair(state.teacher.outputs[0], state.student.outputs[0])
    classes = find(output.axes[start.map.class_axis].term)
    new = np.setdiff1d(np.arange(classes.s), start.map.classes.numpy())
    out = default(start)
    for place in state.places.values():
        heads = [dim for dim, axis in enumerate(place.axes) if find(axis.term) is classes]
        if len(new) and len(place.axes) > 1 and heads:
            out[place.student] = _rescaled(out[place.student], heads[0], start.map.classes, new)
    return out


def _rescaled(weight: Tensor, dim: int, old: Tensor, new: NDArray[np.int64]) -> Tensor:
    fresh = torch.from_numpy(new).to(weight.device)
    scale, before = (
        weight.index_select(dim, rows).square().mean().sqrt()
        for rows in (old.to(weight.device), fresh)
    )
    scaled = weight.index_select(dim, fresh) * torch.where(before > 0, scale / before, 1.0)
    return weight.index_copy(dim, fresh, scaled)


@register_fill("zero")
def zero(start: Start) -> Params:
    """New parameters zero (paper, section 3, item 1). New buffers stay as constructed: a variance must not be zero."""
    return _drawn(start, lambda x: torch.zeros_like(x))


@register_fill("uniform")
def uniform(start: Start) -> Params:
    """New parameters from U[0, θ] (paper, section 3, item 2)."""
    return _drawn(start, lambda x: start.theta * _rand(x, start.generator))


@register_fill("uniform-symmetric")
def uniform_symmetric(start: Start) -> Params:
    """New parameters from U[-θ, θ]."""
    return _drawn(start, lambda x: start.theta * (2 * _rand(x, start.generator) - 1))


def _drawn(start: Start, draw: Callable[[Tensor], Tensor]) -> Params:
    new = {
        name: value.clone()
        if name in start.buffers or not value.is_floating_point()
        else draw(value)
        for name, value in start.student.items()
    }
    return start.map.embed(start.teacher, into=new)


def _rand(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=torch.float64, device="cpu").to(like)


@register_fill("zero-out")
def zero_out(start: Start) -> Params:
    """New units have random incoming weights, and no old unit reads them: the function stays, and no unit is dead."""
    return _kept(start, plain)


@register_fill("net2wider")
def net2wider(start: Start) -> Params:
    """New units copy random old ones, whose outgoing weights are split among the copies.

    Net2Wider (Chen et al., 2015, section 3.2) with the unequal shares of LEMON (Wang et al., 2023). The shares sum to
    one, and let copies learn differently: ``W1'[j] = W1[g(j)]``, ``W2'[:, j] = a_j W2[:, g(j)]``,
    ``Σ_{g(j) = i} a_j = 1``.
    """
    rng = np.random.default_rng(
        int(torch.randint(2**31, (1,), generator=start.generator, device="cpu"))
    )

    def copied(leaf: Term, demand: int) -> Plan:
        plan = plain(leaf, demand)
        if leaf.same or leaf.external or leaf.distinct or leaf.t == 0 or demand in (MEAN, ZERO):
            return plan
        source = plan.source.copy()
        new = np.flatnonzero(source == FRESH)
        source[new] = rng.integers(leaf.t, size=len(new))
        share = rng.uniform(0.5, 1.5, size=leaf.s)
        share /= np.bincount(source, weights=share, minlength=leaf.t)[source]
        return Plan(source, share, plan.twin, plan.sign)

    return _kept(start, copied)


@register_fill("vv-zz")
def vv_zz(start: Start) -> Params:
    """New units in pairs with equal incoming and opposite outgoing weights, (V, V) and (Z, -Z) (Yuan et al., 2023)."""

    def paired(leaf: Term, demand: int) -> Plan:
        plan = plain(leaf, demand)
        if leaf.same or leaf.external or leaf.distinct or leaf.t == 0 or demand != FRESH:
            return plan
        return halves(np.flatnonzero(plan.source == FRESH), plan)

    return _kept(start, paired)


def _kept(start: Start, planner: Planner) -> Params:
    """The tensors of a student that computes the teacher's function, with new units as ``planner`` says."""
    state = _traced(start.map)
    plans = UnitPlans(state, planner)
    out = start.map.embed(start.teacher, into=start.student)
    for name, place in state.places.items():
        fresh = out[place.student]
        if fresh.is_floating_point():
            value = _grown(start.teacher[name].to(fresh), fresh, place, plans)
            for dim in place.resampled:
                value = resampled(value, dim, place.axes[dim].term)
            out[place.student] = value
    return out


def _traced(map: GrowthMap) -> Correspondence:
    if map.correspondence is None:
        raise ValueError("this map was loaded from a file; this fill needs GrowthMap.between")
    return map.correspondence


def _grown(old: Tensor, fresh: Tensor, place: TensorPlace, plans: UnitPlans) -> Tensor:
    """One tensor of the student. What the models add to it is added first and taken away again."""
    if not place.shift:
        return _unshifted(old, fresh, place, plans)
    first, second = (x.double() + place.shift for x in (old, fresh))
    return (_unshifted(first, second, place, plans) - place.shift).to(fresh)


def _unshifted(old: Tensor, fresh: Tensor, place: TensorPlace, unit_plans: UnitPlans) -> Tensor:
    """Copies and shares act along every axis in turn; fresh rows stay as constructed."""
    plans = [unit_plans.plan(axis.term) for axis in place.axes]
    new_rows = torch.zeros(fresh.shape, dtype=torch.bool, device=fresh.device)
    value = old
    for dim, plan in enumerate(plans):
        if dim in place.input_axes:
            value = _read(value, dim, plan)
        else:
            value = _made(value, dim, plan)
            new_rows |= _along(torch.from_numpy(plan.source == FRESH), dim, fresh)
    value = torch.where(new_rows, fresh, value)
    for dim, plan in enumerate(plans):
        if plan.sign.any():
            value = _paired(value, fresh, new_rows, dim, plan, dim in place.input_axes)
    for dim, axis in enumerate(place.axes):
        if dim not in place.input_axes:
            zero_new, rescale = marks(axis.term, (place.student, dim))
            value = value * _along(
                torch.from_numpy(np.where(zero_new, 0.0, rescale)), dim, value
            ).to(value)
    return value


def _read(value: Tensor, dim: int, plan: Plan) -> Tensor:
    """Columns of the new units: those of the copied unit, times the share of the copy."""
    share = torch.from_numpy(np.where(plan.source >= 0, plan.share, 0.0))
    if value.shape[dim] == 0:
        return value.new_zeros([len(share) if d == dim else n for d, n in enumerate(value.shape)])
    picked = value.index_select(dim, torch.from_numpy(plan.source.clip(0)).to(value.device))
    return picked * _along(share, dim, picked).to(value)


def _made(value: Tensor, dim: int, plan: Plan) -> Tensor:
    """Rows of the new units: those of the copied unit, the mean of all, or zero."""
    if value.shape[dim] == 0:
        return value.new_zeros(
            [len(plan.source) if d == dim else n for d, n in enumerate(value.shape)]
        )
    picked = value.index_select(dim, torch.from_numpy(plan.source.clip(0)).to(value.device))
    if (plan.source == MEAN).any():
        picked = torch.where(
            _along(torch.from_numpy(plan.source == MEAN), dim, picked),
            value.mean(dim, keepdim=True),
            picked,
        )
    return picked * _along(torch.from_numpy(plan.source != ZERO), dim, picked).to(value)


def _paired(
    value: Tensor, fresh: Tensor, new_rows: Tensor, dim: int, plan: Plan, reads: bool
) -> Tensor:
    """(V, V) along rows; (Z, -Z) along columns, in rows that are not fresh."""
    twins = torch.from_numpy(plan.twin).to(value.device)
    if not reads:
        return value.index_select(dim, twins)
    sign = _along(torch.from_numpy(plan.sign), dim, value).to(value)
    opposite = fresh.index_select(dim, twins) * sign
    return torch.where((sign != 0) & ~new_rows, opposite, value)


def _along(vector: Tensor, dim: int, like: Tensor) -> Tensor:
    return vector.to(like.device).reshape([-1 if d == dim else 1 for d in range(like.ndim)])


OWN.update(FILLS)
