"""A solve from a start nearby, for a trial of a search that met a saddle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from phiopt._types import Params
from phiopt.bilevel.adjoint import Adjoint, without_grad
from phiopt.objective import Objective
from phiopt.solve import Outcome, Solver

NUDGE = 0.1
"""Standard deviation of the noise, over the root mean square of all of the start's entries."""


@dataclass(frozen=True)
class Nudged:
    """An adjoint, or none, whose start is moved by seeded Gaussian noise. The noise has the same size for all entries,
    so that a tensor of zeros moves too. The derivative in the start stays the same.
    """

    adjoint: Adjoint | None

    def solve(
        self, solver: Solver, objective: Objective, start: Params, *, seed: int, progress: bool
    ) -> Outcome:
        start = _moved(start, seed)
        if self.adjoint is None:
            objective, start = without_grad(objective, start)
            return solver.solve(objective, start, seed=seed, progress=progress)
        return self.adjoint.solve(solver, objective, start, seed=seed, progress=progress)


def _moved(start: Params, seed: int) -> Params:
    like = next(iter(start.values()))
    generator = Generator(like.device).manual_seed(seed)
    entries = torch.cat([value.detach().reshape(-1) for value in start.values()])
    size = NUDGE * (float(entries.square().mean().sqrt()) or 1.0)
    return {
        name: value
        + size
        * torch.randn(value.shape, generator=generator, dtype=value.dtype, device=like.device)
        for name, value in start.items()
    }
