"""Pose φ's problem: check the arguments, derive the map and make the start, once for many solves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from phiopt._arguments import without_data
from phiopt._checks import Scalar
from phiopt._modules import global_lock
from phiopt._order import in_order
from phiopt._posing import Posing
from phiopt._randomness import preserved_randomness
from phiopt._transforms import outside_transforms
from phiopt._types import Lift, Loss, Params
from phiopt.data import Source
from phiopt.distributed import together
from phiopt.growth import GrowthMap
from phiopt.objective import Curvature, Lambdas, Neighbourhood, Term
from phiopt.objective.extra import check_extra
from phiopt.problem import Problem


@in_order
@global_lock()
@together
def pose(
    teacher: nn.Module,
    student: nn.Module,
    lambdas: Lambdas | Tensor | Iterable[float],
    data: Source | None = None,
    *,
    map: GrowthMap | None = None,
    lift: Lift | None = None,
    classes: Sequence[int] | Tensor | None = None,
    loss: Loss | None = None,
    neighbourhood: Neighbourhood | None = None,
    curvature: Curvature | None = None,
    extra: Sequence[tuple[Scalar, Term]] = (),
    scale: Literal["relative", "paper"] = "relative",
    start: str | Params | None = None,
    restrict_classes: bool = False,
    micro_batch: int | None = None,
    process_group: ProcessGroup | None = None,
    batch_size: int | None = 128,
    seed: int = 0,
) -> Problem:
    """Pose φ's problem, to be solved many times: at other λ and δ, from other starts, with other seeds, solvers and
    adjoints.

    All arguments but ``batch_size`` are those of `initialize`, which poses a problem and solves it once. The map is
    derived, the start is made and the derivatives are checked here, once.

    Args:
        teacher: The trained model.
        student: The larger model.
        lambdas: λ of a solve without a λ of its own. A term whose weight is the number 0 here can get no weight in
            a solve, because the checks that the term needs are not made.
        data: D1, as in `initialize`. Each solve reads a loader from its beginning.
        map: Where the teacher sits in the student, if that is known. None: the map is derived.
        lift: ψ.
        classes: Student output index of each of the teacher's classes.
        loss: Per-example losses.
        neighbourhood: U_δ.
        curvature: The estimator of the curvature term.
        extra: Terms beside the paper's four, each with a weight beside the simplex.
        scale: "relative" or "paper". The divisors of the relative scale are taken at the start given here, and
            are the same in all solves.
        start: A fill's name, or the student's parameters by name.
        restrict_classes: Whether the loss sees only the outputs of the teacher's classes.
        micro_batch: Examples that go through the student at once.
        process_group: The processes that solve the problem together.
        batch_size: Examples in each draw for the divisors, which are means over draws; None: all of D1. Default
            128, as in `TorchOpt`.
        seed: Seed of every random draw, also in solves without a seed of their own.

    Raises:
        ValueError, TypeError: An argument breaks its rule; see `initialize`.

    Examples:
        >>> from phiopt import TorchOpt
        >>> teacher = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> student = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 5))
        >>> x, y = torch.randn(64, 4), torch.randint(3, (64,))
        >>> problem = pose(teacher, student, (0.4, 0.2, 0.2, 0.2), (x, y))
        >>> few = TorchOpt(steps=5)
        >>> first = problem.solve(solver=few)
        >>> second = problem.solve((0.2, 0.4, 0.2, 0.2), delta=0.2, solver=few)
        >>> first.map is second.map
        True
    """
    weights = Lambdas.of(lambdas)
    if data is None:
        weights = without_data(weights)
    posing = Posing(
        teacher=teacher,
        student=student,
        lambdas=weights,
        source=data,
        map=map,
        lift=lift,
        classes=classes,
        loss=loss,
        neighbourhood=neighbourhood,
        curvature=curvature,
        extra=check_extra(extra),
        scale=scale,
        start=start,
        restrict_classes=restrict_classes,
        micro_batch=micro_batch,
        group=process_group,
        batch_size=batch_size,
        seed=seed,
    )
    device = posing.check()
    posing = posing.off_the_graph()
    with (
        outside_transforms(),
        torch.inference_mode(False),
        torch.autocast(device.type, enabled=False),  # it would round the derivatives
        preserved_randomness(data, device, posing.seed),
    ):
        return posing.problem(device)
