"""φ's problem, to be solved many times: at other λ and δ, from other starts, by other solvers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from phiopt._arguments import check_posed, check_solve, check_start, without_data
from phiopt._checks import Scalar, instance, scalar
from phiopt._modules import global_lock, state_of, with_tensors
from phiopt._randomness import preserved_randomness
from phiopt._resuming import PathLike, check_checkpoint, with_checkpoint
from phiopt._solving import solved
from phiopt._transforms import inside_transforms, outside_transforms, plain
from phiopt._types import Params
from phiopt.bilevel import Adjoint
from phiopt.bilevel.adjoint import check_derivative
from phiopt.data import Source
from phiopt.distributed import check_replicas, together
from phiopt.growth import GrowthMap
from phiopt.objective import Lambdas, Objective
from phiopt.objective.extra import check_weights
from phiopt.solve import (
    Level,
    Outcome,
    Solution,
    Solver,
    TorchOpt,
    raise_failure,
    solve_many,
)
from phiopt.solve.solver import SolvesMany, needs_hessian


@dataclass(frozen=True, eq=False)
class Problem:
    """φ's problem, as `pose` makes it.

    Args:
        objective: L, in the scale that was asked for.
        start: w0, the parameters that are solved for.
        student: A module that holds w0, and beside it the buffers and the parameters that stay.
        map: Where the teacher sits in the student.
        scale: "relative" or "paper".
        seed: Seed of every random draw, in a solve without a seed of its own.
        source: D1 as it was given, or None.
        process_group: The processes that solve the problem together, or None.
        left_out: Terms that cannot be computed, and so are not in the objective, with the reason.
        third_derivatives: Says whether the student and the loss have them, as far as is known. Where no term with
            weight takes them, the first call examines them.
    """

    objective: Objective
    start: Params
    student: nn.Module
    map: GrowthMap
    scale: str
    seed: int
    source: Source | None = None
    process_group: ProcessGroup | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    third_derivatives: Callable[[], bool] = lambda: True

    @property
    def constants(self) -> Params:
        """What the student holds beside w, by name: buffers, and parameters that are not solved for."""
        state = state_of(self.student)
        return {name: v.detach().clone() for name, v in state.items() if name not in self.start}

    def solve(
        self,
        lambdas: Lambdas | Tensor | Iterable[float] | None = None,
        *,
        delta: Scalar | None = None,
        extra: Mapping[str, Scalar] | None = None,
        start: Params | None = None,
        solver: Solver | None = None,
        adjoint: Adjoint | None = None,
        certificate: Level | None = "light",
        restarts: int = 0,
        checkpoint: PathLike | None = None,
        resume: PathLike | None = None,
        seed: int | None = None,
        throw: bool = True,
        progress: bool = False,
    ) -> Solution:
        """w1 = argmin_w L(w; λ, δ), from w0. The same arguments give the same bits, as in `initialize`.

        Args:
            lambdas: λ; None: that of the problem. A term without weight in the problem can get none here.
            delta: δ of the neighbourhood, and of extra terms that follow it (`Term.with_delta`); None: that of
                the problem.
            extra: Weights of extra terms by name; None, and where not named: those of the problem.
            start: The student's parameters by name, and buffers if any; None: that of the problem.
            solver: As in `initialize`, and so are ``adjoint``, ``throw`` and ``progress``.
            certificate: How much is measured of the result.
            restarts: Solves from perturbed starts.
            checkpoint: A file for the state of the solve, ``resume`` such a file to go on from.
            seed: Seed of every random draw; None: that of the problem.

        Raises:
            SolveError, ValueError, TypeError: As `initialize` does.
        """
        return _solve(
            self,
            self.objective.lambdas if lambdas is None else Lambdas.of(lambdas),
            delta,
            extra,
            start,
            solver=TorchOpt() if solver is None else solver,
            adjoint=adjoint,
            certificate=certificate,
            restarts=restarts,
            checkpoint=checkpoint,
            resume=resume,
            seed=self.seed if seed is None else seed,
            throw=throw,
            progress=progress,
            process_group=self.process_group,
        )

    def solve_many(self, lambdas: Tensor, *, solver: SolvesMany | None = None) -> list[Outcome]:
        """The argmin at many points λ, all at once on stacked parameters: see `phiopt.solve.solve_many`,
        which takes several problems too.

        Args:
            lambdas: Points of the simplex, ``(N, 4)``.
            solver: `TorchOpt` with fresh draws and no ``tol``, or another solver that is `SolvesMany`; None:
                ``TorchOpt()``.
        """
        device = next(iter(self.start.values())).device
        with global_lock(), preserved_randomness(self.source, device, self.seed):
            return solve_many(TorchOpt() if solver is None else solver, [self], lambdas)[0]

    def with_tensors(self, values: Params) -> Problem:
        """The same problem with these tensors, by the names of `Objective.tensors` and ``start.NAME``."""
        start = {name: values.get(f"start.{name}", value) for name, value in self.start.items()}
        return replace(self, objective=self.objective.with_tensors(values), start=start)

    def _moved(
        self,
        weights: Lambdas,
        delta: Scalar | None,
        extra: Mapping[str, Scalar] | None,
        start: Params | None,
    ) -> tuple[Problem, Params]:
        """The problem at these weights, this δ and this start, with all of its tensors off the graph; and the tensors
        as they were, by the names of `Objective.tensors` and ``start.NAME``.
        """
        if start is not None:
            instance("start", start, dict, "Params; a fill's name is for pose()")
        more = check_weights(extra or {}, self.objective.extra, self.left_out)
        objective = replace(self.objective, lambdas=weights, extra={**self.objective.extra, **more})
        if delta is not None:
            objective = objective.with_delta(scalar("delta", delta))
        begin = self.start if start is None else start
        given = objective.tensors()
        given |= {f"start.{n}": value for n, value in begin.items() if isinstance(value, Tensor)}
        numbers = {name: plain(name, value) for name, value in given.items()}
        problem = replace(self, objective=objective).with_tensors(numbers)
        if start is None:
            return problem, given
        start = {name: numbers.get(f"start.{name}", value) for name, value in start.items()}
        check_start(start, self.student)
        return problem._from(start), given

    def _from(self, start: Params) -> Problem:
        """The problem from another start, buffers and fixed parameters included."""
        w0 = {name: start[name] for name in self.start}
        beside = {name: value for name, value in start.items() if name not in self.start}
        if not beside:
            return replace(self, start=w0)
        model = self.objective.model
        objective = replace(self.objective, model=lambda w, x: model(beside | w, x))
        student = with_tensors(self.student, beside)
        return replace(self, objective=objective, start=w0, student=student)


@global_lock()
@together
def _solve(
    problem: Problem,
    weights: Lambdas,
    delta: Scalar | None,
    extra: Mapping[str, Scalar] | None,
    start: Params | None,
    *,
    solver: Solver,
    adjoint: Adjoint | None,
    certificate: Level | None,
    restarts: int,
    checkpoint: PathLike | None,
    resume: PathLike | None,
    seed: int,
    throw: bool,
    progress: bool,
    process_group: ProcessGroup | None,
) -> Solution:
    """See `Problem.solve`."""
    if problem.objective.data is None:
        weights = without_data(weights)
    flags = {"throw": throw, "progress": progress}
    check_solve(solver, adjoint, certificate, seed, restarts, flags)
    check_checkpoint(checkpoint, resume, solver, adjoint)
    seed = int(seed)
    check_posed(weights, problem.objective.lambdas)
    problem, given = problem._moved(weights, delta, extra, start)
    check_derivative(given, adjoint)
    if adjoint is None:  # the model holds ψ's parameters itself
        problem = replace(problem, objective=replace(problem.objective, psi={}))
    resumed = with_checkpoint(solver, checkpoint, resume, problem, seed)
    device = next(iter(problem.start.values())).device
    with (
        outside_transforms() as transforms,  # they see the adjoint's solve alone
        torch.inference_mode(False),
        torch.autocast(device.type, enabled=False),  # it would round the derivatives
        preserved_randomness(problem.source, device, seed),
    ):
        if needs_hessian(solver) and not problem.third_derivatives():
            raise TypeError(
                f"solver: {type(solver).__name__} needs second derivatives, which the student or the loss lacks "
                "(see phiopt.check); take LBFGS or TorchOpt"
            )
        if process_group is not None:
            numbers = {n: float(value) for n, value in problem.objective.weights.items()}
            settings: dict[str, object] = {"solver": solver, "adjoint": adjoint, "seed": seed}
            settings |= {"certificate": certificate, "restarts": restarts, "lambdas": numbers}
            check_replicas(process_group, settings, device)

        def solve(objective: Objective, start: Params) -> Outcome:
            if adjoint is None:
                return resumed.solve(objective, start, seed=seed, progress=progress)
            objective = objective.with_tensors(given)
            start = {name: given.get(f"start.{name}", value) for name, value in start.items()}
            with inside_transforms(transforms):
                return adjoint.solve(solver, objective, start, seed=seed, progress=progress)

        solution = solved(problem, weights, solver, solve, certificate, restarts, seed, progress)
    if throw and solution.status.failed:
        raise_failure(solution)
    return solution
