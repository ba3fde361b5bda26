"""What a call of `initialize` will cost, before it is made."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Any

from torch import Tensor, nn

from phiopt._arguments import check_solve
from phiopt._modules import global_lock
from phiopt._randomness import preserved_randomness
from phiopt.data import Source
from phiopt.objective import Lambdas
from phiopt.pose import pose
from phiopt.solve import Level, Solver, TorchOpt, fresh_draws
from phiopt.solve.forecast import CostEstimate, estimate


@global_lock()
def estimate_cost(
    teacher: nn.Module,
    student: nn.Module,
    lambdas: Lambdas | Tensor | Iterable[float],
    data: Source | None = None,
    *,
    solver: Solver | None = None,
    certificate: Level | None = "light",
    restarts: int = 0,
    seed: int = 0,
    **options: Any,
) -> CostEstimate:
    """The time and memory that `initialize` will take with the same arguments, on this machine.

        seconds = checks and start + steps · (gradient + update) + validations · value + certificate

    The checks and the start are made, and timed. So are one gradient of a step, after one to warm up, one update, one
    value and one gradient of the certificate: beside the checks about fifteen plain gradients with the curvature, and
    five without. The memory is 14 or 15 copies of the parameters and what autograd keeps in the largest gradient
    (docs/cost.md).

    Args:
        teacher: As in `initialize`, and so are all other arguments.
        student: The larger model.
        lambdas: λ.
        data: D1.
        solver: None: ``TorchOpt()``.
        certificate: How much is measured of the result.
        restarts: Solves from perturbed starts.
        seed: Seed of every random draw.
        options: Further arguments of `initialize` that pose the problem, such as ``map``, ``neighbourhood`` and
            ``micro_batch``.

    Raises:
        ValueError, TypeError: As `pose` does. Or ``solver`` does not tell how often it evaluates.

    Examples:
        >>> teacher, student = nn.Linear(4, 3), nn.Linear(4, 5)
        >>> data = torch.randn(64, 4), torch.randint(3, (64,))
        >>> sorted(estimate_cost(teacher, student, (0.5, 0.3, 0.2, 0), data).seconds)
        ['certificate', 'checks and start', 'steps', 'validation']
    """
    solver = TorchOpt() if solver is None else solver
    check_solve(solver, None, certificate, seed, restarts, {})
    began = perf_counter()
    problem = pose(
        teacher, student, lambdas, data, batch_size=solver.batch_size, seed=seed, **options
    )
    posing = perf_counter() - began
    objective, start = problem.objective, problem.start
    device = next(iter(start.values())).device
    with preserved_randomness(problem.source, device, seed):
        fresh = fresh_draws(objective, start, solver.batch_size, seed, "light")
        settings: dict[str, Any] = {"solver": solver, "level": certificate, "restarts": restarts}
        return estimate(objective, start, fresh, **settings, seed=seed, posing=posing)
