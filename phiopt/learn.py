"""The outer level: λ, δ and θ of φ, learned for what the student should be good at."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from phiopt._arguments import SCALES, check_modules, check_parts
from phiopt._modules import copied
from phiopt._randomness import preserved_randomness
from phiopt._types import Lift, Loss, Params
from phiopt._values import flag, fraction, number, one_of, part, positive, seed_of
from phiopt.bilevel import Adjoint, AdjointError, Replay, Unroll
from phiopt.bilevel.nudge import Nudged
from phiopt.bilevel.outer import OuterLoss, check_disjoint
from phiopt.bilevel.search import DERIVATIVE, Evaluation, Mirror, Search, SearchStatus, Space
from phiopt.bilevel.start import uniform_start
from phiopt.data import Data, Source, check_source
from phiopt.initialize import initialize
from phiopt.objective import Curvature, Lambdas, Neighbourhood, Uniform
from phiopt.solve import Solution, SolveError, Solver, Status, TorchOpt

LEARNABLE = ("lambdas", "delta", "theta")


@dataclass(frozen=True)
class Trial:
    """One evaluation of the outer loss.

    Args:
        lambdas: The four weights.
        delta: δ, if it is learned.
        theta: θ, if it is learned.
        outer: E of what the inner solve gave, also where that failed by its ``status``; infinite
            where E is not finite, the data could not be read, or there is no derivative to go on by.
        status: Of the inner solve; None if it ended in an `AdjointError`.
        gradients: Gradients of φ's objective that the inner solve took.
        slopes: Whether the derivative of E was taken there: see `Learned.gradients`.
        again: Whether it repeats the point of an earlier trial from a start nearby, after a saddle or
            a solve without a derivative.
        error: Why there is no derivative there, where one was asked for and refused.
    """

    lambdas: tuple[float, ...]
    delta: float | None
    theta: float | None
    outer: float
    status: Status | None
    gradients: int
    slopes: bool = False
    again: bool = False
    error: str | None = None

    def at(self, other: Trial) -> bool:
        """Whether both are at one point."""
        return (self.lambdas, self.delta, self.theta) == (other.lambdas, other.delta, other.theta)

    @property
    def mark(self) -> str:
        """What was out of the ordinary, in a few words; empty if nothing."""
        failed = self.status is not None and self.status.failed
        words = [str(self.status and self.status.name)] if failed else []
        words += ["no derivative"] * (self.error is not None) + ["again"] * self.again
        return ", ".join(words)


@dataclass(frozen=True)
class Learned:
    """What `learn` found.

    Args:
        solution: φ's solution at the best point.
        lambdas: λ there.
        delta: δ there, if it was learned.
        theta: θ there, if it was learned.
        outer: E there.
        start_outer: E at the start of the search; never below ``outer``.
        path: Every evaluation, in order.
        status: How the search ended; whether the solve of ``solution`` itself failed is in its own.
        error: What ended it, where the status is ``NO_DERIVATIVE`` or ``TRIAL_FAILED``.

    ``print(learned)`` shows the path.
    """

    solution: Solution
    lambdas: Lambdas
    delta: float | None
    theta: float | None
    outer: float
    start_outer: float
    path: list[Trial]
    status: SearchStatus
    error: Exception | None = None

    @property
    def gradients(self) -> int:
        """What the search cost in gradients of φ's objective: those of every solve, and for each
        derivative of E `DERIVATIVE` times as many.
        """
        return sum(t.gradients * (1 + DERIVATIVE * t.slopes) for t in self.path)

    def __str__(self) -> str:
        lines = [f"{self.status.name}: {self.status.value}"]
        if self.error is not None:
            lines.append(f"error: {self.error}")
        if self.solution.status.failed:
            lines.append(_failure(self.solution.status))
        lines += [
            f"outer loss {self.start_outer:.4g} -> {self.outer:.4g} in {len(self.path)} solves",
            "    task  proximity  noise  curvature     delta     theta     outer",
        ]
        for t in self.path:
            row = "{:8.3f}{:11.3f}{:7.3f}{:11.3f}".format(*t.lambdas)
            for value in (t.delta, t.theta):
                row += f"{'-' if value is None else format(value, '.4g'):>10}"
            best = " <" if t.outer == self.outer else ""
            lines.append(f"{row}{t.outer:>10.4g}{best}{t.mark and '  ' + t.mark}")
        return "\n".join(lines)


@torch.inference_mode(False)
@torch.enable_grad()  # whatever is around it, a search needs slopes
def learn(
    teacher: nn.Module,
    student: nn.Module,
    data: Source,
    outer: OuterLoss,
    *,
    lambdas: Lambdas | Iterable[float] = (0.25, 0.25, 0.25, 0.25),
    parameters: Collection[str] = ("lambdas",),
    theta: float = 0.01,
    floor: float = 0.01,
    search: Search | None = None,
    test: Source | None = None,
    lift: Lift | None = None,
    classes: Sequence[int] | Tensor | None = None,
    loss: Loss | None = None,
    neighbourhood: Neighbourhood | None = None,
    curvature: Curvature | None = None,
    scale: Literal["relative", "paper"] = "relative",
    start: str | Params | None = None,
    solver: Solver | None = None,
    restrict_classes: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Learned:
    """Choose λ (and δ, θ) so that the student that φ gives is good at the outer loss.

        min over (λ, δ, θ) of E(w1),   w1 = argmin_w L(w; λ, δ) from w0(θ),   λ2 ≥ floor

    a bilevel problem whose lower level is φ (paper, section 4). Every evaluation uses the same
    draws, so E is one function. See docs/bilevel.md for the derivatives.

    Args:
        teacher: As in `initialize`, and so are ``student``, ``data``, ``lift``, ``classes``,
            ``loss``, ``neighbourhood``, ``curvature``, ``scale``, ``start``, ``solver`` and
            ``restrict_classes``.
        student: The larger model.
        data: D1.
        outer: E, with data held out from D2.
        lambdas: Where the search starts; default the simplex's centre. A weight of 0 stays 0, under
            multiplicative updates, and its term is not computed: (⅓, ⅓, ⅓, 0) learns the other three
            for the price of no curvature.
        parameters: Which of "lambdas", "delta" and "theta" are learned; δ and θ in log space.
        theta: Where the search for θ starts; ``start`` must then be "uniform" or
            "uniform-symmetric". Default 0.01.
        floor: Least λ2, in (0, 1); default 0.01.
        search: `Mirror` (default) or `Optuna`.
        test: The test set, if at hand: outer data that share an input with it are refused.
        seed: Of every random draw.
        progress: Show a progress bar, on a terminal only.

    Returns:
        `Learned`: the solution at the best point, the path of λ and the outer curve.

    A trial whose solve ends at a saddle, or has no derivative that can be trusted, is repeated once
    from a start nearby, by a seeded nudge; both are in the path, marked. If that does not help the search
    goes on from other points. A trial whose solve diverged or was not finite is marked as well. Any
    other error in a later trial ends the search, with the best point until then and a status that says
    so; one in the first goes through. A warning tells if the chosen solution's solve failed.

    Raises:
        AdjointError: No solution had a derivative that can be trusted, and no other point was better
            than the start.
        SolveError: The data could not be read to the end of the first solve.
        FloatingPointError: E is finite nowhere.
        ValueError, TypeError: An argument breaks its rule; named before any work.

    Examples:
        >>> teacher, student = nn.Linear(3, 2), nn.Linear(3, 4)
        >>> d1 = torch.randn(20, 3), torch.randint(2, (20,))
        >>> held_out = torch.randn(20, 3), torch.randint(4, (20,))
        >>> from phiopt import TorchOpt
        >>> few = TorchOpt(steps=5)
        >>> learned = learn(teacher, student, d1, OuterLoss(held_out), solver=few)
        >>> learned.outer <= learned.start_outer
        True
    """
    search = Mirror() if search is None else search
    part("search", search, "run")
    seed = seed_of(seed)
    flags = {"restrict_classes": restrict_classes, "progress": progress}
    for name, value in flags.items():
        flag(name, value)
    one_of("scale", scale, SCALES)
    check_parts(
        {
            "lift": (lift, "__call__"),
            "loss": (loss, "__call__"),
            "curvature": (curvature, "products"),
            "solver": (solver, "solve"),
        }
    )
    neighbourhood = Uniform(0.1) if neighbourhood is None else neighbourhood
    part("neighbourhood", neighbourhood, "perturb")
    space = _space(lambdas, parameters, neighbourhood, start, theta, floor)
    check_source("data", data)
    if not isinstance(outer, OuterLoss):
        raise TypeError(f"outer: got {type(outer).__name__}, must be an OuterLoss")
    like = check_modules(teacher, student)
    _check_path(solver, search.adjoint)
    sources = outer.sources
    if test is not None:
        with preserved_randomness(test, like.device, seed, *sources.values()):
            for name, source in sources.items():
                check_disjoint(name, source, test)
    with preserved_randomness(None, like.device, seed, *sources.values()):
        # What is wrong with it is to be told before a solve.
        outer.of(student, seed, differentiable=search.adjoint is not None)
    options: dict[str, Any] = {
        "lift": lift,
        "classes": classes,
        "loss": loss,
        "curvature": curvature,
        "scale": scale,
        "solver": solver,
        "restrict_classes": restrict_classes,
        "seed": seed,
        "throw": False,
    }
    fixed = copied(teacher, "teacher").requires_grad_(False)  # û is given, not learned

    origin = None
    if "theta" in space.start:
        with preserved_randomness(data, like.device, seed):
            inputs = None if data is None else Data(data, like.device, like.dtype).example[0][:2]
        grown: dict[str, Any] = {"lift": lift, "classes": classes, "inputs": inputs, "seed": seed}
        origin = uniform_start(fixed, student, str(start), **grown)

    def solve(point: Params, adjoint: Adjoint | None) -> Solution:
        learned = [weight if i in space.terms else 0.0 for i, weight in enumerate(point["lambdas"])]
        around: Any = neighbourhood
        if "delta" in point:
            around = replace(around, delta=point["delta"])
        begin = start if origin is None else origin(point["theta"])
        return initialize(
            fixed,
            student,
            Lambdas(*learned),
            data,
            neighbourhood=around,
            start=begin,
            adjoint=adjoint,
            **options,
        )

    with (
        torch.autocast(like.device.type, enabled=False),  # as in each solve
        tqdm(desc="learn", disable=None if progress else True) as bar,
    ):
        run = _Run(solve, outer, search.adjoint, seed, bar)
        return run.through(search, space)


@dataclass
class _Run:
    """One search in progress: every evaluation, and the best."""

    solve: Callable[[Params, Adjoint | None], Solution]
    outer: OuterLoss
    adjoint: Adjoint | None
    seed: int
    bar: Any
    path: list[Trial] = field(default_factory=list)
    best: tuple[Solution, Trial] | None = None
    loss: Callable[[Params], Tensor] | None = None
    error: AdjointError | None = None

    def through(self, search: Search, space: Space) -> Learned:
        error: Exception | None = None
        try:
            status = search.run(self.evaluate, space, self.seed)
        except AdjointError as raised:
            status, self.error = SearchStatus.NO_DERIVATIVE, raised
        except Exception as raised:
            if self.best is None:
                raise
            status, error = SearchStatus.TRIAL_FAILED, raised
        differentiated = any(trial.slopes for trial in self.path)
        lowered = self.best is not None and not self.best[1].at(self.path[0])
        if self.error is not None and error is None:
            if not differentiated and not lowered:
                raise self.error
            error = self.error if status is SearchStatus.NO_DERIVATIVE else None
        if self.best is None:
            raise FloatingPointError(
                f"outer: its loss is finite nowhere, at none of {len(self.path)} points. Look at "
                "outer.loss and outer.data, or lower the inner learning rate"
            )
        solution, trial = self.best
        if solution.status.failed:
            warnings.warn(f"learn: {_failure(solution.status)}", stacklevel=3)
        return Learned(
            solution=solution,
            lambdas=solution.lambdas,
            delta=trial.delta,
            theta=trial.theta,
            outer=trial.outer,
            start_outer=self.path[0].outer,
            path=self.path,
            status=status,
            error=error,
        )

    def evaluate(self, point: Params) -> Evaluation:
        """E there; from a start nearby too, if the first leads to a saddle or to no derivative."""
        first, status = self._evaluate(point)
        if status is not None and status is not Status.SADDLE:
            return first
        second, _ = self._evaluate(point, again=True)
        return second if second.value < inf else first

    def _evaluate(self, point: Params, again: bool = False) -> tuple[Evaluation, Status | None]:
        """One solve; a status of None if it ended in an `AdjointError`."""
        smooth = self.adjoint is not None
        tensors = {n: v.detach().clone().requires_grad_(smooth) for n, v in point.items()}
        index = len(self.path)
        try:
            solution = self.solve(tensors, Nudged(self.adjoint) if again else self.adjoint)
        except AdjointError as error:
            refused = error

            def none() -> Params:
                raise refused

            found = self._noted(point, None, inf, none, again)
            self._refused(index, error)
            return found, None
        if solution.status is Status.DATA_FAILED:
            self._noted(point, solution, inf, lambda: {}, again)
            raise SolveError(solution) from solution.error
        with torch.set_grad_enabled(smooth):
            value = self._loss(solution)(solution.params)

        def slopes() -> Params:
            try:
                found = torch.autograd.grad(
                    value, list(tensors.values()), allow_unused=True, materialize_grads=True
                )
            except AdjointError as error:
                self._refused(index, error)
                if again:
                    raise
                return self._evaluate(point, again=True)[0].slopes()
            self.path[index] = replace(self.path[index], slopes=True)
            return dict(zip(tensors, found, strict=True))

        number = float(value.detach())
        return self._noted(point, solution, number, slopes, again), solution.status

    def _refused(self, index: int, error: AdjointError) -> None:
        self.error = error
        self.path[index] = replace(self.path[index], error=str(error))

    def _loss(self, solution: Solution) -> Callable[[Params], Tensor]:
        """E, made from the first solution's student: parameters that are not solved for are its."""
        if self.loss is None:
            like = next(solution.student.parameters())
            with preserved_randomness(None, like.device, self.seed, *self.outer.sources.values()):
                self.loss = self.outer.of(solution.student, self.seed)
        return self.loss

    def _noted(
        self,
        point: Params,
        solution: Solution | None,
        value: float,
        slopes: Callable[[], Params],
        again: bool,
    ) -> Evaluation:
        weights = tuple(point["lambdas"].tolist())
        value = value if isfinite(value) and solution is not None else inf
        trial = Trial(
            lambdas=weights,
            delta=float(point["delta"]) if "delta" in point else None,
            theta=float(point["theta"]) if "theta" in point else None,
            outer=value,
            status=None if solution is None else solution.status,
            gradients=0 if solution is None else solution.stats.gradient,
            again=again,
        )
        self.path.append(trial)
        if solution is not None and value < (inf if self.best is None else self.best[1].outer):
            params = {name: p.detach() for name, p in solution.params.items()}
            plain = replace(solution, params=params, lambdas=Lambdas.of(weights))
            self.best = plain, trial
        self.bar.update()
        self.bar.set_postfix(outer=value, refresh=False)
        return Evaluation(value, slopes)


def _failure(status: Status) -> str:
    return f"the chosen solution's own solve ended as {status.name}: {status.value}"


def _space(
    lambdas: Any,
    parameters: Collection[str],
    neighbourhood: Neighbourhood,
    start: Any,
    theta: float,
    floor: float,
) -> Space:
    """The checked start of the search."""
    floor, theta = fraction("floor", floor), positive("theta", theta)
    iterable = isinstance(parameters, Iterable) and not isinstance(parameters, str)
    if not iterable or not {"lambdas"} <= set(parameters) <= set(LEARNABLE):
        raise ValueError(
            f"parameters: got {parameters!r}, must be names: 'lambdas' and any of 'delta', 'theta'"
        )
    weights = _point([number(f"lambdas.{n}", w) for n, w in Lambdas.of(lambdas).items()])
    if (weights > 0).sum() < 2 or weights[1] <= floor:
        raise ValueError(
            f"lambdas: got {tuple(weights.tolist())}, at a vertex or with λ2 at most floor={floor}: "
            "multiplicative updates never leave there; start with two weights or more, λ2 above floor"
        )
    point = {"lambdas": weights}
    if "delta" in parameters:
        delta = number("neighbourhood.delta", getattr(neighbourhood, "delta", 0.0))
        if not delta > 0:
            raise ValueError(f"neighbourhood: δ is {delta}, must be positive to be learned")
        point["delta"] = _point(delta)
    if "theta" in parameters:
        if start not in ("uniform", "uniform-symmetric"):
            raise ValueError(
                f"start: got {start!r}, must be 'uniform' or 'uniform-symmetric' to learn theta"
            )
        point["theta"] = _point(theta)
    return Space(point, floor, {"delta": getattr(neighbourhood, "most", inf)})


def _check_path(solver: Solver | None, adjoint: Adjoint | None) -> None:
    """Refuse a solver that takes no steps for an adjoint that goes back by them."""
    if isinstance(adjoint, Replay | Unroll) and not hasattr(solver or TorchOpt(), "optimizer"):
        raise TypeError(
            f"solver: {type(solver).__name__} takes no steps of an optimiser, by which "
            f"{type(adjoint).__name__} goes back; give search=Mirror(adjoint=Implicit()), or Optuna()"
        )


def _point(value: float | list[float]) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device="cpu")
