"""What every solver of the inner problem looks like, and what it may declare."""

from dataclasses import is_dataclass
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

from phiopt._types import Params
from phiopt.objective import Objective
from phiopt.solve.outcome import Outcome
from phiopt.solve.solves import Solves

RETRIES = 3
"""Roll-backs to the best iterate, each with a shorter step, before a solve gives up."""


@runtime_checkable
class Solver(Protocol):
    """A way to find argmin_w L(w).

    These two members are all that a solver must have. What else it can do or needs it declares by the members of
    `StepSolver`, `SolvesMany`, `DrawsAfresh`, `NeedsHessian`, `KeepsState` or `TellsWork`. A solver without them takes
    no steps that an adjoint can go back by, solves one problem at a time, minimises one function, does with first
    derivatives, has no checkpoints, and does not know how long it will take.
    """

    @property
    def batch_size(self) -> int | None:
        """Examples to a draw of the objective; None for all of D1."""
        ...

    def solve(self, objective: Objective, start: Params, *, seed: int, progress: bool) -> Outcome:
        """Minimise from ``start``, which is not modified. The result is never worse than the start. A failure is a
        status.
        """
        ...


@runtime_checkable
class StepSolver(Protocol):
    """A solver whose every step is one update of an optimiser by one gradient of L. `Replay` and `Unroll`
    go back by such steps. The solver is a dataclass, in which they put another optimiser.
    """

    @property
    def batch_size(self) -> int | None: ...

    @property
    def optimizer(self) -> Any:
        """A gradient transformation of TorchOpt. None: `default_optimizer` of so many ``steps``."""
        ...

    @property
    def steps(self) -> int:
        """Updates at most."""
        ...

    def solve(
        self, objective: Objective, start: Params, *, seed: int, progress: bool
    ) -> Outcome: ...


@runtime_checkable
class SolvesMany(Protocol):
    """A solver that can take the steps of many solves together: see `solve_many`."""

    @property
    def batch_size(self) -> int | None: ...

    @property
    def apart_reason(self) -> str:
        """What its settings must be for that, such as "must have no tol"; empty where they are so."""
        ...

    def transformation(self, every: int) -> Any:
        """The optimiser of a solve in which a term comes only once in ``every`` steps."""
        ...

    def drive(self, solves: Solves, began: float, bar: Any) -> list[Outcome]:
        """Take the steps of these solves, without recording a graph, until each has ended.

        Args:
            solves: One or many.
            began: When the work on them began, by ``time.perf_counter``.
            bar: A progress bar, updated at each step.
        """
        ...


@runtime_checkable
class DrawsAfresh(Protocol):
    """A solver that may draw a new sample at each step, and then minimises no one function."""

    @property
    def fresh(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class NeedsHessian(Protocol):
    """A solver that may need second derivatives of L."""

    @property
    def needs_hessian(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class KeepsState(Protocol):
    """A solver that can write its state to a file, and go on from it to the same bits."""

    @property
    def batch_size(self) -> int | None: ...

    def solve_kept(
        self, objective: Objective, start: Params, *, seed: int, progress: bool, checkpoint: Any
    ) -> Outcome:
        """As `Solver.solve`, with a `Checkpoint` to write to and to go on from."""
        ...


class Evaluations(NamedTuple):
    """How often L is evaluated in a solve, at most.

    Args:
        gradients: On samples of a step.
        values: On other samples.
    """

    gradients: int
    values: int


@runtime_checkable
class TellsWork(Protocol):
    """A solver that knows beforehand how often it evaluates L. A progress bar then tells how long a solve will take."""

    @property
    def batch_size(self) -> int | None: ...

    def work(self, objective: Objective) -> Evaluations:
        """The evaluations of a solve that takes all of its steps."""
        ...


def takes_steps(solver: object) -> TypeGuard[StepSolver]:
    """Whether an adjoint can go back by the solver's steps."""
    return isinstance(solver, StepSolver) and is_dataclass(solver)


def draws_afresh(solver: object) -> bool:
    """Whether the solver has a new sample at each step."""
    return isinstance(solver, DrawsAfresh) and solver.fresh


def needs_hessian(solver: object) -> bool:
    """Whether the solver needs second derivatives of L."""
    return isinstance(solver, NeedsHessian) and solver.needs_hessian
