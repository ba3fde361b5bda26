"""The checkpoint of a solve: checks of its paths, and the arguments by which the solves of two calls are compared."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch.distributed as dist

from phiopt._described import described
from phiopt._modules import state_of
from phiopt._paths import check_path, new_file
from phiopt._solving import PosedProblem
from phiopt._types import Params
from phiopt.objective import Objective
from phiopt.solve.checkpoint import Checkpoint
from phiopt.solve.outcome import Outcome
from phiopt.solve.saved_state import read
from phiopt.solve.solver import KeepsState, Solver

PathLike: TypeAlias = str | os.PathLike[str]
ROLES = {
    "proximity.teacher": "teacher",
    "noise.neighbourhood": "neighbourhood",
    "curvature.estimator": "curvature",
}
"""Fields of the paper's terms that are arguments, and the names of these."""


def check_files(checkpoint: object, resume: object, solver: object, adjoint: object) -> None:
    """`check_checkpoint`, and that the file to go on from is whole: for a call with work before the solve reads it."""
    check_checkpoint(checkpoint, resume, solver, adjoint)
    if resume is not None:
        read(resume)  # type: ignore[arg-type]


def check_checkpoint(checkpoint: object, resume: object, solver: object, adjoint: object) -> None:
    """Refuse paths that cannot be written or read, a solver that has no checkpoints, and an adjoint.

    Raises:
        ValueError, TypeError: The message names the argument.
        OSError: A path cannot be written, or there is no file.
    """
    if checkpoint is not None:
        new_file("checkpoint", checkpoint)
    if resume is not None:
        check_path("resume", resume)
    for name, value in (("checkpoint", checkpoint), ("resume", resume)):
        if value is None:
            continue
        if solver is not None and not isinstance(solver, KeepsState):
            raise TypeError(
                f"{name}: must be None with {type(solver).__name__}, which cannot go on from a file (SciPy does not "
                "give the state of its methods). Take TorchOpt, or save the solution that an interrupt leaves, and "
                "give its parameters as start"
            )
        if adjoint is not None:
            raise ValueError(
                f"{name}: must be None with an adjoint, because no file has the path of iterates that "
                f"{type(adjoint).__name__} goes back by"
            )


def with_checkpoint(
    solver: Solver,
    checkpoint: PathLike | None,
    resume: PathLike | None,
    problem: PosedProblem,
    seed: int,
) -> Solver:
    """The solver for a solve with these files; the same if there are none. Of several processes the first writes.

    Raises:
        ValueError: The file to go on from is damaged, or of a solve with other arguments.
        OSError: It cannot be read.
    """
    if not isinstance(solver, KeepsState) or (checkpoint is None and resume is None):
        return solver
    saved, arguments = None, _arguments(problem, solver, seed)
    if resume is not None:
        saved = read(resume)
        saved.check_arguments(arguments)
    group = problem.process_group
    first = group is None or dist.get_rank(group) == 0
    path = Path(checkpoint) if checkpoint is not None and first else None
    return _Resumed(solver, Checkpoint(arguments, path, saved))


@dataclass(frozen=True)
class _Resumed:
    """The solver, with a checkpoint."""

    solver: KeepsState
    checkpoint: Checkpoint

    @property
    def batch_size(self) -> int | None:
        return self.solver.batch_size

    def solve(self, objective: Objective, start: Params, *, seed: int, progress: bool) -> Outcome:
        return self.solver.solve_kept(
            objective, start, seed=seed, progress=progress, checkpoint=self.checkpoint
        )


def _arguments(problem: PosedProblem, solver: Solver, seed: int) -> Mapping[str, str]:
    """All that the bits of a solve depend on, as text by name."""
    objective, growth = problem.objective, problem.map
    values: dict[str, object] = {
        **{f"lambdas.{name}": float(weight) for name, weight in objective.lambdas.items()},
        **{f"extra.{name}.weight": float(weight) for name, weight in objective.extra.items()},
        "solver": solver,
        "seed": seed,
        "scale": problem.scale,
        "micro_batch": objective.micro_batch,
        "start": problem.start,
        "classes": growth.classes,
        "map": growth.placements,
        "lift": growth.lift,
        "loss": objective.loss,
        "data": problem.source,
    }
    texts = {
        key: text for name, value in values.items() for key, text in described(name, value).items()
    }
    for term in objective.terms:
        name = f"extra.{term.name}" if term.name in objective.extra else term.name
        for key, text in described(name, term).items():
            role = next((r for r in ROLES if key.startswith(r)), None)
            texts[key if role is None else key.replace(role, ROLES[role], 1)] = text
    texts["student"] = described("student", problem.student)["student"]
    beside = {n: value for n, value in state_of(problem.student).items() if n not in problem.start}
    return texts | described("student.tensors", beside)
