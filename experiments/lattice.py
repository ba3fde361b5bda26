"""φ at every point of a lattice on the simplex of λ, solved many at a time."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import isfinite
from typing import Any, NamedTuple, TypeAlias

import torch
import torchopt
from torch import Tensor, nn

import phiopt
from experiments import records
from experiments.data import Splits
from experiments.methods import Descent
from experiments.models import built
from experiments.records import RunDirectory
from experiments.study import trained_teacher
from experiments.task import Task
from phiopt.solve import Outcome, fresh_draws, solve_many, with_all_terms

FLOOR = 0.01
"""Least λ2: a lattice point p becomes λ = floor e2 + (1 - floor) p, as in `phiopt.learn`."""
CHUNK = 40
"""Points solved together at most: what a killed run has to solve again."""

HORIZON = 10
"""Training steps of an outer loss that is not taken right at w1."""

Point: TypeAlias = tuple[int, int, int, int]
"""In units of 1 / resolution."""


def points(resolution: int) -> list[Point]:
    """All of them: four whole numbers that sum to ``resolution``."""
    points = product(range(resolution + 1), repeat=4)
    return [(a, b, c, d) for a, b, c, d in points if a + b + c + d == resolution]


def weights(point: Point) -> list[float]:
    """λ of a lattice point."""
    p = [part / sum(point) for part in point]
    return [(1 - FLOOR) * value + (FLOOR if k == 1 else 0) for k, value in enumerate(p)]


@dataclass(frozen=True)
class Case:
    """A task, how φ is solved in it, and what its students are judged by."""

    task: Task
    batch_size: int
    descent: Descent
    horizon: int
    """Training steps on D2 after which the outer loss is taken; 0: right at w1."""
    robust: float
    """ρ, the share of the noisy loss in the outer loss."""

    @property
    def solver(self) -> phiopt.TorchOpt:
        descent = self.descent
        optimizer = torchopt.adam(descent.learning_rate, eps_root=1e-8)  # see docs/ablation.md
        return phiopt.TorchOpt(optimizer, descent.steps, self.batch_size)

    def outer(self, splits: Splits, *, horizon: int | None = None) -> phiopt.OuterLoss:
        """The outer loss of `phiopt.learn` on the validation part of D2."""
        steps = self.horizon if horizon is None else horizon
        train, held_out = splits.train, splits.validation
        training = phiopt.Training((train.x, train.y), steps=steps) if steps else None
        return phiopt.OuterLoss(
            (held_out.x, held_out.y),
            robust=self.robust,
            neighbourhood=self.task.phi.neighbourhood,
            training=training,
        )

    @property
    def other_horizon(self) -> int:
        """For comparison."""
        return 0 if self.horizon else HORIZON


class Scene(NamedTuple):
    """One seed of a case: what all its solves share."""

    case: Case
    seed: int
    teacher: nn.Module
    student: nn.Module
    taught: Splits
    splits: Splits

    @property
    def options(self) -> dict[str, Any]:
        """Arguments that `phiopt.pose`, `phiopt.initialize` and `phiopt.learn` have in common."""
        task = self.case.task
        return {
            "lift": task.lift,
            "classes": task.classes,
            "neighbourhood": task.phi.neighbourhood,
            "start": "default",
            "restrict_classes": task.phi.restrict_classes,
            "seed": self.seed,
        }

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        return self.taught.train.x, self.taught.train.y


def scene(case: Case, seed: int, directory: RunDirectory, device: torch.device) -> Scene:
    """The teacher is trained, or read where a run before has kept it."""
    splits = case.task.splits(seed).to(device)
    taught = case.task.taught(seed, splits)
    teacher = trained_teacher(case.task, taught, seed, directory)
    student = built(case.task.student, seed).to(device)
    return Scene(case, seed, teacher, student, taught, splits)


def solved(scenes: Sequence[Scene], wanted: Sequence[Point]) -> Iterator[dict[str, Any]]:
    """The records of these points for the seeds of one case, all solved together."""
    case, began = scenes[0].case, time.perf_counter()
    centre = phiopt.Lambdas(0.25, 0.25, 0.25, 0.25)
    size = case.batch_size
    problems = [
        phiopt.pose(each.teacher, each.student, centre, each.data, batch_size=size, **each.options)
        for each in scenes
    ]
    lambdas = torch.tensor([weights(point) for point in wanted], dtype=torch.float64)
    solved = solve_many(case.solver, problems, lambdas)
    seconds = (time.perf_counter() - began) / (len(scenes) * len(wanted))
    for each, problem, outcomes in zip(scenes, problems, solved, strict=True):
        objective, start = problem.objective, problem.start
        fresh = fresh_draws(objective, start, size, each.seed)
        losses = {
            horizon: case.outer(each.splits, horizon=horizon).of(each.student, each.seed)
            for horizon in (case.horizon, case.other_horizon)
        }
        for point, outcome in zip(wanted, outcomes, strict=True):
            with torch.no_grad():
                outer = {h: float(loss(outcome.params)) for h, loss in losses.items()}
            whole = with_all_terms(outcome, objective, start, outcome.params, fresh, ())
            yield _record(each, point, whole, outer, seconds)


def _record(
    scene: Scene, point: Point, outcome: Outcome, outer: dict[int, float], seconds: float
) -> dict[str, Any]:
    """As JSON can hold it; what is not finite becomes None."""
    return {
        "task": scene.case.task.name,
        "seed": scene.seed,
        "point": list(point),
        "lambdas": weights(point),
        "outer": finite(outer[scene.case.horizon]),
        "other_horizon": finite(outer[scene.case.other_horizon]),
        "terms": {name: finite(value) for name, value in outcome.terms.items()},
        "status": outcome.status.name,
        "objective": finite(outcome.objective),
        "start_objective": finite(outcome.start_objective),
        "stats": asdict(outcome.stats),
        "seconds": seconds,
        "environment": records.environment(scene.splits.train.x.device),
    }


def finite(value: float) -> float | None:
    return value if isfinite(value) else None
