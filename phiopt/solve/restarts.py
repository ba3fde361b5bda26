"""Solves from other starts, which show whether the minimum is a good one."""

import torch
from torch import Generator

from phiopt._types import Params
from phiopt.objective import Objective
from phiopt.solve.solver import Solver

SPREAD = 0.3
"""Standard deviation of the noise on a parameter, over the root mean square of its entries."""


def perturbed(start: Params, count: int, seed: int) -> list[Params]:
    """``count`` copies of ``start``. Each entry is moved by Gaussian noise, whose standard deviation is 0.3 times the
    root mean square of its tensor.

    Examples:
        >>> perturbed({"w": torch.ones(3)}, 2, seed=0)[0]["w"].shape
        torch.Size([3])
    """
    device = next(iter(start.values())).device
    generator = Generator(device).manual_seed(seed)

    def moved(value: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype, device=device)
        return value.detach() + SPREAD * value.detach().square().mean().sqrt() * noise

    return [{name: moved(value) for name, value in start.items()} for _ in range(count)]


def restarted(
    solver: Solver, objective: Objective, start: Params, count: int, seed: int, progress: bool
) -> tuple[list[Params], BaseException | None]:
    """The solutions from ``count`` perturbed starts. An error of reading the data ends the series early, and is
    returned too.
    """
    reached: list[Params] = []
    for other in perturbed(start, count, seed):
        try:
            outcome = solver.solve(objective, other, seed=seed, progress=progress)
        except Exception as error:
            if objective.data is None or objective.data.error is not error:
                raise
            return reached, error
        if outcome.error is not None:
            return reached, outcome.error
        reached.append(outcome.params)
    return reached, None
