"""Unroll: the solve's last steps as one differentiable graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from phiopt._checks import count
from phiopt._types import Params
from phiopt.bilevel.adjoint import (
    check_smooth,
    differentiable_inputs,
    guarded,
    without_grad,
)
from phiopt.bilevel.trajectory import Path
from phiopt.objective import Objective
from phiopt.solve import Outcome, Solver


@dataclass(frozen=True)
class Unroll:
    """Record the steps of the solve, with TorchOpt's differentiable updates, as one graph.

    The graph is an ordinary one, so derivatives of any order and mode exist. `Unroll` is the fastest adjoint, but its
    memory grows with every step. With ``last=k`` only the last k steps are recorded. They are taken again after the
    solve, and the iterate before them counts as a constant. The derivative is then truncated (Shaban et al. 2019):
    biased, but in bounded memory.

    Args:
        last: Number of steps to differentiate. None (default): all steps, which gives the derivative of `Replay`.

    Raises:
        AdjointError: The solve was rolled back, or with ``last`` a step taken again ends elsewhere;
            in the backward pass, a derivative that is not finite.
        ValueError: ``last`` < 1, or the curvature is `Spectral`.
        TypeError: The solver takes no steps of an optimiser.

    Examples:
        >>> Unroll(last=5).last
        5
    """

    needs_steps: ClassVar[bool] = True

    last: int | None = None

    def __post_init__(self) -> None:
        if self.last is not None:
            count("last", self.last)

    def solve(
        self, solver: Solver, objective: Objective, start: Params, *, seed: int, progress: bool
    ) -> Outcome:
        check_smooth(objective)
        inputs = guarded(differentiable_inputs(objective, start))
        objective = objective.with_tensors(inputs)
        start = {name: inputs.get(f"start.{name}", value) for name, value in start.items()}
        if self.last is None:
            outcome, path = Path.of(
                solver, objective, start, seed=seed, progress=progress, graph=bool(inputs)
            )
            params = path.last
        else:
            plain = without_grad(objective, start)
            outcome, path = Path.of(solver, *plain, seed=seed, progress=progress)
            again = _again(path, objective, start, self.last)
            # The values of the solve itself, to the last bit, with the derivative of its last steps.
            params = {n: w + (again[n] - again[n].detach()) for n, w in outcome.params.items()}
        return replace(outcome, params={n: params[n].clone() for n in outcome.params})


@torch.enable_grad()
def _again(path: Path, objective: Objective, start: Params, last: int) -> Params:
    """The end of the path: its last steps are taken once more, and recorded."""
    first = max(0, len(path.steps) - last)
    params = path.steps[first].params if first else start
    state = path.steps[first].state if path.steps else None
    for index in range(first, len(path.steps)):
        sample = path.sample(path.steps[index])
        params, state = path.advance(objective, sample, params, state)
        path.check(index, params)
    return params
