"""The fourth term: the size of the Hessian of the loss on the teacher's data.

Every estimate is a product ⟨a, b⟩ of two Hessian-vector products, a = H_A v and b = H_B v, with one
probe v and two parts A and B of the batch, which may be the batch itself. That serves three ends.
With A and B independent the estimate has no bias. With b held fixed, 2 ⟨∂a/∂w, b⟩ is its gradient
(where A and B are exchangeable, in expectation) at half the price. And a and b are linear in the
Hessian, so a large batch can go through in several small ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

from torch import Generator, Tensor

from phiopt._checks import count, number, one_of
from phiopt._types import Params
from phiopt.derivatives import Linearised, dot, gauss_newton, linearise
from phiopt.objective.probes import Distribution, draw_probes, each
from phiopt.objective.task import Task

SMALLEST = 16
"""Examples in a part: fewer cost hardly less."""

Matrix = Literal["hessian", "gauss-newton"]

Product: TypeAlias = Callable[[Params], Params]
"""v ↦ H v."""


class Search(NamedTuple):
    """How a search for probes ended.

    Args:
        products: H v spent on it.
        error: Relative error of the gradient up to a factor, that of the value up to a square: for an
            eigenvector the sine of the angle that is left, at most. The largest, of many under
            ``torch.vmap``.
        unsettled: How many of these were not found to their tolerance: 0 or 1 of one.
    """

    products: int
    error: float
    unsettled: int


class Curvature(ABC):
    """An estimate of ‖H‖² from products H v with random probes v."""

    batch: float | None = None
    """Share of a stochastic step's batch that goes into A and B together; None: all of it into
    each."""
    every: int = 1
    """Steps of a stochastic solver to an evaluation, which then counts so many times."""

    @property
    def fixed_part(self) -> str:
        """What the gradient takes for a constant although it moves with w, such as "its eigenvector":
        derivatives beyond the gradient are then wrong, and adjoints refuse the estimator. Empty: nothing.
        """
        return ""

    @property
    def float32_reason(self) -> str:
        """See `DeclaresPrecision`."""
        return ""

    @property
    @abstractmethod
    def products(self) -> int:
        """Number of Hessian-vector products of one evaluation on the whole batch, at most."""

    @property
    def searching(self) -> int:
        """How many of them `aim` spends, at most, and tells of (see `reporting`)."""
        return 0

    def reporting(self, to: Callable[[Search], None]) -> "Curvature":
        """This estimator, calling ``to`` after every search of `aim`; by default there is none."""
        return self

    @abstractmethod
    def draw(self, params: Params, generator: Generator) -> Params:
        """Random probes, stacked on a leading axis."""

    def aim(self, operator: Callable[[], Product], probes: Params) -> Params:
        """The probes to use where v ↦ H v is ``operator()``: by default those drawn."""
        return probes

    def part(self, size: int) -> int | None:
        """Examples of A, and of B, in a stochastic step whose batch has this size; None: the batch
        itself.

        Elsewhere it always is, where a minimiser could exploit a difference of A and B, and a judge
        of iterates be misled.
        """
        if self.batch is None:
            return None
        part = max(SMALLEST, int(size * self.batch / 2))
        return part if 2 * part < size else None

    def linearise(self, task: Callable[[Params], Tensor], params: Params) -> Linearised:
        """L_f and the products of its matrix."""
        return linearise(task, params)

    def __call__(
        self, task: Callable[[Params], Tensor], params: Params, probes: Params
    ) -> tuple[Tensor, Tensor]:
        """L_f and its ‖H‖² at ``params``, from one shared graph; ``probes`` from `draw`.

        Differentiable in ``params`` to every order. ``task`` is a `Task` or, if nothing but its
        value is needed, any function of the parameters.
        """
        probes = self.aim(lambda: self.linearise(task, _still(params)).hvp, probes)
        at = self.linearise(task, params)
        products = each(at.hvp, probes)
        return at.value, mean_dot(products, products)


@dataclass(frozen=True)
class Frobenius(Curvature):
    """L_4 = ‖∂²L_f/∂w²‖_F², the sum of the squared entries of the Hessian (paper, section 4, term
    3).

        ‖H‖_F² = E_v ‖H v‖²,   E v vᵀ = I        (Hutchinson 1990)

    Unbiased with any number of probes, for the Hessian H of the mean loss over the batch at hand.
    As an estimate for all of D1 it is high on a mini-batch, by the variance of H. A step of a
    stochastic solver takes instead of ‖H v‖²

        ⟨H_A v, H_B v⟩,   A and B independent weighted samples of its batch, drawn by `influence`,

    which has the same expectation, and differentiates 2 ⟨H_A v, b⟩ with b = H_B v held fixed: the
    gradient's expectation is the same too, at a third of the price (docs/cost.md). A and B have 16
    examples or more each; where that is half the batch, and wherever a value is judged or reported
    or a sample frozen, it is ‖H v‖².

    Args:
        probes: Vectors v to a draw; default 1, whose relative standard deviation is below √2. They
            are multiplied together, by ``torch.vmap``.
        distribution: "rademacher" (default), independent signs; or "gaussian", of larger variance.
        batch: How much of its batch a stochastic step spends on A and B together, a fraction in
            (0, 1]; default 0.25. None: ‖H v‖² of the whole batch in every step.
        every: A stochastic step in so many includes the term, that many times; default 1.
        matrix: "hessian" (default). Or an approximation: "gauss-newton" is ‖Jᵀ (∂²l/∂z²) J‖², which
            drops the second derivatives of the outputs z; near ‖H‖² where the loss is fitted well.

    Raises:
        ValueError: ``probes`` or ``every`` < 1, ``batch`` outside (0, 1], or another name for
            ``distribution`` or ``matrix``.

    Examples:
        >>> Frobenius(probes=4).part(128), Frobenius().part(32)
        (16, None)
        >>> Frobenius(batch=None, every=4).every
        4
    """

    probes: int = 1
    distribution: Distribution = "rademacher"
    batch: float | None = 0.25
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


def mean_dot(a: Params, b: Params) -> Tensor:
    """⟨a, b⟩ for each probe on the leading axis, averaged over the probes."""
    return dot(a, b) / len(next(iter(a.values())))


def _divisible(task: Callable[[Params], Tensor]) -> Task:
    if not isinstance(task, Task):
        raise TypeError(f"task: got {task!r}, must be a Task: its batch or outputs are needed")
    return task


def _still(params: Params) -> Params:
    return {name: value.detach() for name, value in params.items()}
