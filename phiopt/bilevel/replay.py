"""Replay: reverse-mode differentiation of a solve, one step at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial as bound
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from phiopt._checks import count
from phiopt._transforms import outside_transforms
from phiopt._types import Params
from phiopt.bilevel.adjoint import (
    attach,
    check_smooth,
    differentiable_inputs,
    vector_jacobian,
    without_grad,
)
from phiopt.bilevel.trajectory import Path, float_leaves
from phiopt.objective import Objective, Sample
from phiopt.objective.passes import added
from phiopt.solve import Outcome, Solver


@dataclass(frozen=True)
class Replay:
    """Differentiate through every step of the solve, from stored iterates.

        w_{t+1} = T(w_t, θ),   w̄_t = (∂T/∂w_t)ᵀ w̄_{t+1},   θ̄ = Σ_t (∂T/∂θ)ᵀ w̄_{t+1}

    for θ = (λ, δ, u), where w includes the optimiser's state and w̄_0 is the derivative in the start. The
    derivative is that of `Unroll`, but no graph outlives its step (Franceschi et al. 2017 for reverse-mode
    hypergradients; Maclaurin, Duvenaud & Adams 2015 reverse the dynamics, where we store the iterates).
    Memory is that of one step and of the iterates: for each step three copies of the parameters with Adam,
    one with SGD. Time is that of `Unroll` and of the solve, because every step is taken twice.

    With ``every=k`` one iterate in k is kept, and the backward pass takes the steps between two of them once more.
    That stores T/k + k iterates in place of T, fewest at k = √T, and takes the time of one more solve. The result
    has the same bits.

    With a ``micro_batch`` the backward pass of a step without the curvature takes so many examples at a time, for
    the price of one more gradient. A step with the curvature needs the graph of the whole batch, because ‖H v‖² is
    no sum over examples.

    The result is exact for the solver's finite path to the iterate that it returned. Second
    derivatives and forward mode are refused; use `Unroll`.

    Args:
        every: Steps from one kept iterate to the next; default 1, so that all are kept.

    Raises:
        AdjointError: From the solve, if it was rolled back, or in forward mode; from the backward
            pass, if a step taken again ends elsewhere or the derivative is not finite; from a
            second derivative.
        ValueError: ``every`` < 1, or the curvature is `Spectral`.
        TypeError: The solver takes no steps of an optimiser.

    Examples:
        >>> from phiopt import TorchOpt, initialize
        >>> teacher, student = nn.Linear(3, 2), nn.Linear(3, 4)
        >>> data = torch.randn(20, 3), torch.randint(2, (20,))
        >>> point = torch.tensor([0.4, 0.2, 0.2, 0.2], requires_grad=True)
        >>> few = TorchOpt(steps=5)
        >>> solution = initialize(teacher, student, point, data, solver=few, adjoint=Replay())
        >>> solution.params["weight"].square().sum().backward()
        >>> point.grad.shape
        torch.Size([4])
    """

    needs_steps: ClassVar[bool] = True

    every: int = 1

    def __post_init__(self) -> None:
        count("every", self.every)

    def solve(
        self, solver: Solver, objective: Objective, start: Params, *, seed: int, progress: bool
    ) -> Outcome:
        check_smooth(objective)
        inputs = differentiable_inputs(objective, start)
        plain = without_grad(objective, start)
        with outside_transforms():
            outcome, path = Path.of(solver, *plain, seed=seed, progress=progress, every=self.every)

        def pull_back(given: Params, cotangent: Params) -> Params:
            return _through(path, given, cotangent)

        return replace(outcome, params=attach(outcome.params, inputs, pull_back))


def _through(path: Path, inputs: Params, cotangent: Params) -> Params:
    """The cotangent of ``inputs``, given that of the path's last iterate."""
    start = {name: value for name, value in inputs.items() if name.startswith("start.")}
    theta = {name: value for name, value in inputs.items() if name not in start}
    total = {name: torch.zeros_like(value) for name, value in theta.items()}
    state: list[Tensor] | None = None
    for first in reversed(range(0, len(path.steps), path.every)):
        with path.segment(first) as indices:
            for index in reversed(indices):
                cotangent, state, partial = _through_step(path, index, theta, cotangent, state)
                total = {name: value + partial[name] for name, value in total.items()}
    return total | {name: cotangent[name.removeprefix("start.")] for name in start}


def _through_step(
    path: Path, index: int, theta: Params, cotangent: Params, state: list[Tensor] | None
) -> tuple[Params, list[Tensor], Params]:
    """One step back: the cotangents of w_t and of the optimiser's state, and the step's share of θ's.

    ``state`` is None for the last step: nothing depends on the optimiser's state after it.
    """
    step = path.steps[index]
    sample = path.sample(step)
    values, rebuilt = float_leaves(step.state)
    if state is None:
        state = [torch.zeros_like(value) for value in values]

    def gradient(w: Params, t: Params, piece: Sample) -> Params:
        return path.objective.with_tensors(t).value_and_grad(w, piece)[2]

    def checked(w: Params, following: Any) -> tuple[Params, list[Tensor]]:
        path.check(index, w)
        return w, float_leaves(following)[0]

    parts = path.objective.pieces(sample)
    if len(parts) == 1:

        def whole(w: Params, s: list[Tensor], t: Params) -> tuple[Params, list[Tensor]]:
            return checked(*path.move(gradient(w, t, sample), w, rebuilt(s)))

        products = vector_jacobian(whole, (step.params, values, theta), (cotangent, state))
        return cast(tuple[Params, list[Tensor], Params], products)

    # Back through the optimiser, then through one piece of the gradient at a time.

    def update(g: Params, w: Params, s: list[Tensor]) -> tuple[Params, list[Tensor]]:
        return checked(*path.move(g, w, rebuilt(s)))

    with torch.no_grad():
        whole_gradient = gradient(step.params, theta, sample)
    at = (whole_gradient, step.params, values)
    pulled, along, state = vector_jacobian(update, at, (cotangent, state))
    partial = {name: torch.zeros_like(value) for name, value in theta.items()}
    for piece, share in parts:
        scaled = {name: share * value for name, value in pulled.items()}
        more = vector_jacobian(bound(gradient, piece=piece), (step.params, theta), scaled)
        along, partial = added(along, more[0]), added(partial, more[1])
    return along, cast(list[Tensor], state), partial
