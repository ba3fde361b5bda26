"""Searches for λ, δ and θ: by exponentiated gradient, or without derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from math import isfinite
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from torch import Generator

from phiopt._checks import count, part, positive
from phiopt._types import Params
from phiopt.bilevel.adjoint import Adjoint, AdjointError
from phiopt.bilevel.replay import Replay
from phiopt.bilevel.space import Space

WORTH = 1e-4
"""A line search that lowers E by a smaller share ends a descent, because a further one would cost too much."""

DERIVATIVE = 3
"""Cost of a derivative of E in inner solves: each step is taken again with its graph, and differentiated."""


class SearchStatus(Enum):
    """How a search ended; the member's value says what to do about it."""

    STATIONARY = "No shorter step along the hypergradient lowered the outer loss. Nothing to do."
    BUDGET_SPENT = "All evaluations were made, as asked. More may lower the outer loss further."
    NOT_FINITE = (
        "The outer loss or the inner solve was not finite where a descent began. "
        "Lower the inner learning rate, or start elsewhere."
    )
    NO_DERIVATIVE = (
        "A solution had no derivative that could be trusted, so no descent went on from there; the "
        "search went on from other points, and the best of all is returned. See the adjoint's "
        "advice in the message of `error`."
    )
    TRIAL_FAILED = (
        "A trial raised an error, or its data could not be read, so the search ended there; the "
        "best point until then is returned. Mend what `error` says."
    )


class Evaluation(NamedTuple):
    """E at a point, and a function that computes its gradient there.

    E is infinite where it is not finite. The function raises an `AdjointError` where there is no gradient
    that can be trusted.
    """

    value: float
    gradient: Callable[[], Params]


Evaluate: TypeAlias = Callable[[Params], Evaluation]


@runtime_checkable
class Search(Protocol):
    """A way to solve the outer problem."""

    @property
    def adjoint(self) -> Adjoint | None:
        """What gives the gradient of E; None if the search does not ask for it."""
        ...

    def run(self, evaluate: Evaluate, space: Space, seed: int) -> SearchStatus:
        """Evaluate points. ``evaluate`` keeps the best of them."""
        ...


@dataclass(frozen=True)
class Mirror:
    """Mirror descent: exponentiated gradient on the simplex, with a line search by values alone.

    E is a fixed function of the point, because all draws are made once. So a step is taken only if it lowers E. E has
    plateaus, and a gradient says little about distant points. The search therefore first evaluates the start and the
    points where one term is switched off, and descends from the lowest of them. It does so if the budget allows a
    step afterwards: 9 or more with all four terms.

    A derivative of E costs three times as much as E. Along its direction steps are doubled as long as E falls, or
    quartered if the first does not lower E. The next derivative is taken at the lowest point. If a descent ends
    early, the rest of the budget goes to further descents, from the start and then from random points.

    Args:
        budget: Work in inner solves: an evaluation of E counts 1, its derivative 3 more. Default 11, less than a
            third of the 35 points of a lattice with quarters.
        rate: Length of a descent's first step, in logarithms; default 1. Logarithms of λ are weighed by √p.
        restarts: Descents at most; default 3.
        patience: A descent ends after so many steps in a row that do not lower E, each a quarter of the step
            before; default 3.
        adjoint: Default `Replay`.

    Raises:
        ValueError: ``budget``, ``restarts`` or ``patience`` < 1, or ``rate`` not positive.
        TypeError: ``adjoint`` is no `Adjoint`. `Optuna` needs none.

    Examples:
        >>> Mirror(budget=20).rate
        1.0
    """

    budget: int = 11
    rate: float = 1.0
    restarts: int = 3
    patience: int = 3
    adjoint: Adjoint = field(default_factory=Replay)

    def __post_init__(self) -> None:
        for name in ("budget", "restarts", "patience"):
            count(name, getattr(self, name))
        positive("rate", self.rate)
        part("adjoint", self.adjoint, Adjoint)

    def run(self, evaluate: Evaluate, space: Space, seed: int) -> SearchStatus:
        generator = Generator().manual_seed(seed)
        first = lowest = evaluate(space.start), space.start
        left, ends = self.budget - 1, []
        if left > len(space.terms) + DERIVATIVE:
            for point in map(space.without, space.terms):
                evaluation, left = evaluate(point), left - 1
                if evaluation.value < lowest[0].value:
                    lowest = evaluation, point  # the other solves, and their paths, are freed
        starts = [lowest] if lowest is first else [lowest, first]
        for number in range(self.restarts):
            if number >= len(starts) and left:
                point, left = space.random(generator), left - 1
                starts.append((evaluate(point), point))
            if number == 0 or left:
                end, left = self._descend(evaluate, *starts[number], space, left)
                ends.append(end)
        return max(ends, key=[*SearchStatus].index) if len(set(ends)) > 1 else ends[0]

    def _descend(
        self, evaluate: Evaluate, here: Evaluation, point: Params, space: Space, left: int
    ) -> tuple[SearchStatus, int]:
        """How the descent ended, and what is left of the budget."""
        rate = self.rate
        if not isfinite(here.value):
            return SearchStatus.NOT_FINITE, left
        while left > DERIVATIVE:  # a derivative without a step after it is of no use
            try:
                gradient, left = here.gradient(), left - DERIVATIVE
            except AdjointError:
                return SearchStatus.NO_DERIVATIVE, left - 1
            origin, before, lowered, misses = point, here.value, False, 0
            while left and misses < self.patience:
                target = space.moved(origin, gradient, rate)
                if target is None:
                    return SearchStatus.STATIONARY, left
                following, left = evaluate(target), left - 1
                if following.value < here.value:  # False for NaN
                    point, here, lowered, rate = target, following, True, 2 * rate
                elif lowered:
                    break
                else:
                    rate, misses = rate / 4, misses + 1
            gain = before - here.value
            if misses == self.patience or (lowered and gain < WORTH * abs(before)):
                return SearchStatus.STATIONARY, left
            if lowered:
                rate /= 4  # half of what led here
        return SearchStatus.BUDGET_SPENT, 0


@dataclass(frozen=True)
class Optuna:
    """Search without derivatives, by Optuna's sampler (needs ``phiopt[search]``).

    For outer losses or horizons that cannot be differentiated, such as `Corruption` in δ or a long
    training on D2. The first trial is the start.

    Args:
        trials: Evaluations of E; default 40.

    Raises:
        ValueError: ``trials`` < 1.
        ImportError: From `learn`, if Optuna is not installed.

    Examples:
        >>> Optuna(trials=20).adjoint is None
        True
    """

    trials: int = 40

    def __post_init__(self) -> None:
        count("trials", self.trials)

    @property
    def adjoint(self) -> None:
        return None

    def run(self, evaluate: Evaluate, space: Space, seed: int) -> SearchStatus:
        try:
            import optuna
        except ImportError as error:
            raise ImportError(
                "search: Optuna is not installed: pip install phiopt[search]"
            ) from error
        evaluate(space.start)
        shown = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed % 2**32))
            for _ in range(self.trials - 1):
                trial = study.ask()
                unit = {n: trial.suggest_float(n, 1e-6, 1 - 1e-6) for n in space.coordinates}
                value = evaluate(space.at(unit)).value
                if isfinite(value):
                    study.tell(trial, value)
                else:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
        finally:
            optuna.logging.set_verbosity(shown)
        return SearchStatus.BUDGET_SPENT
