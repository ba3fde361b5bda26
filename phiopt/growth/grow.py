"""Growth without optimisation: the paper's section 3, and the rivals' function-preserving fills."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn

from phiopt._checks import flag, instance, one_of, part, seed_of, two_models, within
from phiopt._given import GivenInputs, inputs_of
from phiopt._inputs import lifted
from phiopt._modules import global_lock, state_of, with_tensors
from phiopt._order import in_order
from phiopt._randomness import preserved_randomness
from phiopt._types import Function, Lift, Params
from phiopt._warnings import warn
from phiopt.growth import fills as _fills  # noqa: F401  (registers the library's)
from phiopt.growth.forward import Forward
from phiopt.growth.given import check_beside_map
from phiopt.growth.map import GrowthMap
from phiopt.growth.registry import FILLS, PRESERVING, Start, filled
from phiopt.growth.verify import verify as verified

_log = logging.getLogger("phiopt")
EXACT = 1e-5
"""Relative change of the logits up to which the function counts as kept in float32."""
ROUNDINGS = 8
"""The same in units of the dtype's rounding, for coarser dtypes: float16, bfloat16."""


@dataclass(frozen=True)
class Verification:
    """The change of the logits from the teacher at x to the grown student at ψ(x), both in evaluation mode."""

    max_abs: float
    max_rel: float
    examples: int
    tolerance: float = EXACT
    """Largest ``max_rel`` of a kept function: 1e-5, or 8 roundings of the coarser dtype of both models."""

    @property
    def exact(self) -> bool:
        return self.max_rel <= self.tolerance

    def __str__(self) -> str:
        return f"max |Δ logits| = {self.max_abs:.3g} ({self.max_rel:.3g} relative) on {self.examples} examples"


@in_order
@global_lock()
def grow(
    teacher: nn.Module,
    student: nn.Module,
    fill: str = "zero",
    *,
    theta: float = 0.01,
    lift: Lift | None = None,
    classes: Sequence[int] | Tensor | None = None,
    inputs: GivenInputs | None = None,
    map: GrowthMap | None = None,
    seed: int = 0,
    verify: bool | None = None,
) -> nn.Module:
    """A new student with the teacher's values where the map puts them, and ``fill`` elsewhere.

    Args:
        teacher: The trained model. Never modified; the result shares no storage with it.
        student: The larger model. Never modified either, and shares no storage with the result.
        fill: ``"zero"``, ``"uniform"`` (U[0, θ]), ``"uniform-symmetric"`` (U[-θ, θ]), ``"default"`` (as the student was
            constructed), ``"matched"`` (default, with the rows of new classes as large as the teacher's), or one of the
            function-preserving fills ``"zero-out"`` (random incoming, zero outgoing), ``"net2wider"`` and ``"vv-zz"``.
            `phiopt.growth.register_fill` adds others. Zeros are the paper's, but leave new units dead for ever: their
            incoming and outgoing gradients are both zero.
        theta: θ >= 0 of the uniform fills.
        lift: ψ, as in `GrowthMap.between`. Not needed with ``map``.
        classes: Student output of each teacher class, as in `GrowthMap.between`. Not needed with ``map``.
        inputs: A batch of the teacher's inputs, as in `GrowthMap.between`. Not needed with ``map``.
        map: A map that was made before for these two modules.
        seed: Seed of the fill's random numbers. The global generator is not used.
        verify: ``None``: a function-preserving fill is checked on numbers if the map gives no reason why the function
            cannot be kept. Both models run on a few inputs of several sizes, taken from ``inputs`` or random, and in
            float64 if they are small enough. A warning says so if this cannot be checked, as in a forward pass that
            draws random numbers. ``True``: also compare the logits on 8 examples for every fill, log the largest change
            and keep it as ``verification`` of the result. If the map gives reasons, warn about a function-preserving
            fill that moves the logits by more than 1e-5 relative (8 roundings in float16 and bfloat16). ``False``:
            nothing is run.

    Raises:
        AlignmentError: A function-preserving fill does not keep the function, and the map gives no reason for it. The
            message names the first operations that differ, with their modules.
        ValueError: An unknown fill (the message lists them), negative θ, NaN in the weights, models that do not match.

    Examples:
        >>> small = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> large = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5))
        >>> grown = grow(small, large, "zero-out")
        >>> x = torch.ones(2, 4)
        >>> torch.allclose(grown(x)[:, :3], small(x), atol=1e-6)
        True
    """
    two_models(teacher, student)
    one_of("fill", fill, sorted(FILLS))
    theta, seed = within("theta", theta, 0, inf), seed_of(seed)
    if verify is not None:
        verify = flag("verify", verify)
    given = None if inputs is None else inputs_of("inputs", inputs)
    if lift is not None:
        part("lift", lift, Function)
    if map is not None:
        instance("map", map, GrowthMap, "a GrowthMap")
        map.check_models(teacher, student)
        check_beside_map(lift, classes, (map.lift, map.classes))
    map = map or GrowthMap.between(teacher, student, lift=lift, classes=classes, inputs=given)
    for role, module in (("teacher", teacher), ("student", student)):
        _check_values(role, module)

    def make(u: Params, w: Params) -> Params:
        known = {name: value for name, value in u.items() if name in map.placements}
        buffers = frozenset(dict(student.named_buffers()))
        start = Start(map, known, w, buffers, theta, torch.Generator().manual_seed(seed))
        return filled(fill, start)

    grown = with_tensors(student, make(_detached(teacher), _detached(student)))
    preserving = fill in PRESERVING
    if verify is not False and preserving and not map.inexact_reasons:
        new = _detached(grown)
        why = verified(teacher, student, map, make, new, fill=fill, inputs=given, seed=seed)
        if why is not None:
            warn(f"fill={fill!r} is not verified: {why} (verify=False skips the check)")
    if verify:
        result = compare(teacher, grown, map, inputs=given, seed=seed)
        grown.verification = result  # type: ignore[assignment]
        _log.info("fill %s: %s", fill, result)
        if preserving and map.inexact_reasons and not result.exact:
            reasons = "; ".join(map.inexact_reasons)
            warn(f"fill={fill!r} did not keep the function: {result}. {reasons}")
    return grown


@torch.no_grad()
def compare(
    teacher: nn.Module,
    student: nn.Module,
    map: GrowthMap,
    *,
    inputs: GivenInputs | None = None,
    seed: int = 0,
) -> Verification:
    """Largest change of the logits from the teacher at x to the student at ψ(x), on the teacher's classes.

    Args:
        teacher: The teacher.
        student: The grown student.
        map: The map between them.
        inputs: A batch of the teacher's inputs, as in `grow`, of which 8 are used. ``None``: standard normal inputs
            (tokens 0 and 1 for an integer input) of the shape that the map was traced with.
        seed: Seed of the random inputs and of the forward passes.
    """
    x = map.example(seed) if inputs is None else inputs_of("inputs", inputs)[:8]
    small, large = (Forward.of(model, double=False) for model in (teacher, student))
    x = small.placed(x)
    with preserved_randomness(map.lift, small.device, seed):
        a, b = small(x, seed)[0], large(lifted(map.lift, x), seed)[0]
    if map.class_axis > 0:  # else one number for each example, and no classes
        b = b.index_select(map.class_axis, map.classes.to(b.device))
    b = b[tuple(slice(0, n) for n in a.shape)]
    change = float((a - b.to(a.device)).abs().max())
    parameters = (p for model in (teacher, student) for p in model.parameters())
    roundings = (torch.finfo(p.dtype).eps for p in parameters if p.is_floating_point())
    tolerance = max(EXACT, *(ROUNDINGS * eps for eps in roundings))
    return Verification(change, change / max(float(a.abs().max()), 1e-30), len(x), tolerance)


def _check_values(role: str, module: nn.Module) -> None:
    """Check that all tensors hold numbers. Parameters must be finite; buffers, such as masks, may be infinite."""
    for name, value in state_of(module).items():
        if value.is_meta:
            raise ValueError(f"{role}'s {name} is on meta, must hold numbers")
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(f"{role}'s {name} has values that are not finite")
    for name, buffer in module.named_buffers():
        if buffer.isnan().any():
            raise ValueError(f"{role}'s {name} holds NaN")


def _detached(module: nn.Module) -> Params:
    return {name: value.detach() for name, value in state_of(module).items()}
