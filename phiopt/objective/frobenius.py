"""The fourth term in the Frobenius norm."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Generator, Tensor

from phiopt._checks import count, number, one_of
from phiopt._types import Params
from phiopt.derivatives import Linearised, gauss_newton, linearise
from phiopt.objective.curvature import Curvature
from phiopt.objective.mean_loss import Task
from phiopt.objective.probes import Distribution, draw_probes

Matrix = Literal["hessian", "gauss-newton"]


@dataclass(frozen=True)
class Frobenius(Curvature):
    """L_4 = ‖∂²L_f/∂w²‖_F², the sum of the squared entries of the Hessian (paper, section 4, term 3).

        ‖H‖_F² = E_v ‖H v‖²,   E v vᵀ = I        (Hutchinson 1990)

    H is the Hessian of the mean loss over the batch. For this H the estimate is unbiased with any number of
    probes. As an estimate for all of D1 it is too high on a mini-batch, by the variance of H.

    A step of a stochastic solver takes, in place of ‖H v‖²,

        ⟨H_A v, H_B v⟩,   A and B independent samples of its batch, by `importance_sample`

    The expectation is the same. The step differentiates 2 ⟨H_A v, b⟩, where b = H_B v counts as a constant. The
    gradient's expectation is the same too, at a tenth of the price (docs/cost.md). A and B have 8 examples or
    more each. Where that is half the batch, ‖H v‖² is taken, and so it is wherever iterates are compared, a value
    is reported, or a sample is kept.

    Args:
        probes: Vectors v in a draw; default 1, whose relative standard deviation is below √2. Their products
            are computed together, by ``torch.vmap``.
        distribution: "rademacher" (default), independent signs; or "gaussian", of larger variance.
        batch: Share of a stochastic step's batch that A and B take together, a fraction in (0, 1]; default
            0.125. None: ‖H v‖² of the whole batch in every step.
        every: One stochastic step in so many includes the term, multiplied by that number; default 1.
        matrix: "hessian" (default), or an approximation. "gauss-newton" is ‖Jᵀ (∂²l/∂z²) J‖². It drops the
            second derivatives of the outputs z, and is near ‖H‖² where the loss is fitted well.

    Raises:
        ValueError: ``probes`` or ``every`` < 1, ``batch`` outside (0, 1], or another name for
            ``distribution`` or ``matrix``.

    Examples:
        >>> Frobenius(probes=4).part(128), Frobenius().part(16)
        (8, None)
        >>> Frobenius(batch=None, every=4).every
        4
    """

    probes: int = 1
    distribution: Distribution = "rademacher"
    batch: float | None = 0.125
    every: int = 1
    matrix: Matrix = "hessian"

    def __post_init__(self) -> None:
        count("probes", self.probes)
        count("every", self.every)
        one_of("distribution", self.distribution, get_args(Distribution))
        one_of("matrix", self.matrix, get_args(Matrix))
        if self.batch is not None and not 0 < number("batch", self.batch) <= 1:
            raise ValueError(f"batch: got {self.batch}, must be a fraction in (0, 1], or None")

    @property
    def products(self) -> int:
        return self.probes

    def draw(self, params: Params, generator: Generator) -> Params:
        return draw_probes(params, self.probes, generator, self.distribution)

    def linearise(self, task: Callable[[Params], Tensor], params: Params) -> Linearised:
        if self.matrix != "gauss-newton":
            return linearise(task, params)
        whole = _divisible(task)
        return gauss_newton(whole.outputs, whole.of_outputs, params)


def _divisible(task: Callable[[Params], Tensor]) -> Task:
    if not isinstance(task, Task):
        raise TypeError(f"task: got {task!r}, must be a Task: its batch or outputs are needed")
    return task
