"""The initialisations that are compared: one small function each, in one registry.

Each takes a `Growth` and a seed and returns the student before its training, with the number of
gradient evaluations that this took.  All draw the student's fresh weights from the same seed, so
that comparisons are paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import nn

import phiopt
from experiments.data import Examples
from experiments.models import built
from phiopt._modules import state_of
from phiopt._types import Lift
from phiopt.growth import GrowthMap
from phiopt.objective import Curvature
from phiopt.objective.neighbourhood import Neighbourhood
from phiopt.optimizers import decaying_adam
from phiopt.solve import Stats

Layer: TypeAlias = list[str]
"""The names of its tensors."""

NOISE = phiopt.Lambdas(0.1, 0.1, 0.8, 0.0)
"""Nearly all weight on the term that robustness comes from."""


class Descent(NamedTuple):
    """Length and learning rate of φ's solver, an Adam whose rate falls to 0 over the second half."""

    steps: int
    learning_rate: float
    normalised: bool = True
    """Adam sees gradients of one size, see `phiopt.normalised`."""

    def optimizer(self, eps_root: float = 0.0) -> Any:
        """TorchOpt's; a derivative of it needs its root away from zero by ``eps_root``."""
        adam = decaying_adam(self.steps, self.learning_rate, eps_root)
        return phiopt.normalised(adam) if self.normalised else adam


@dataclass(frozen=True)
class Phi:
    """How φ is solved in a task; chosen on validation data of seeds that no table uses."""

    neighbourhood: Neighbourhood
    batch_size: int
    three_terms: Descent
    """With λ4 = 0."""
    four_terms: Descent
    """With λ4 > 0, where a step costs half as much again."""
    restrict_classes: bool = False
    """Class growth: L_f on D1* over the outputs of the teacher's classes only."""


@dataclass(frozen=True)
class Growth:
    """What an initialisation may use: the teacher, the student's constructor, D1, settings."""

    teacher: nn.Module
    student: Callable[[], nn.Module]
    data: Examples
    classes: tuple[int, ...] | None
    theta: float
    phi: Phi
    batch_size: int
    """Of the student's training: a gradient evaluation is that of so many examples."""
    lift: Lift | None = None
    """ψ; None: inferred."""
    noise: Neighbourhood | None = None
    """U_δ around D2's inputs; None: φ's, which is around D1's."""
    d2: tuple[Examples, Examples] | None = None
    """D2's training and validation parts, for what learns from them before the student is trained."""


@dataclass(frozen=True)
class Initialised:
    """A student before its training; for φ also its solver's report.

    Raises ``ValueError`` where gradients were spent and ``start`` is not given.
    """

    student: nn.Module
    gradients: float = 0
    start: nn.Module | None = None
    """The model that one has while the gradients are spent."""
    report: dict[str, Any] | None = None
    learning_rates: tuple[float, ...] | None = None
    """Tried in the training that follows; None: those of the task."""

    def __post_init__(self) -> None:
        if self.gradients and self.start is None:
            raise ValueError(f"start: got None, must be given where {self.gradients:g} were spent")


def scratch(growth: Growth, seed: int) -> Initialised:
    """PyTorch's own initialisation; nothing comes from the teacher."""
    return Initialised(constructed(growth, seed))


def zero(growth: Growth, seed: int) -> Initialised:
    """The teacher's weights, new ones zero (section 3, 1)."""
    return Initialised(extended(growth, seed, "zero"))


def uniform(growth: Growth, seed: int) -> Initialised:
    """The teacher's weights, new ones U[0, θ] (section 3, 2)."""
    return Initialised(extended(growth, seed, "uniform"))


def default(growth: Growth, seed: int) -> Initialised:
    """The teacher's weights, new ones as PyTorch initialises them."""
    return Initialised(extended(growth, seed, "default"))


def phi(growth: Growth, seed: int) -> Initialised:
    """φ(û) with λ = (.34, .33, .33, 0) (section 4), started from `default`."""
    return solve_phi(growth, seed, phiopt.Lambdas(0.34, 0.33, 0.33, 0.0), growth.phi.three_terms)


def phi4(growth: Growth, seed: int) -> Initialised:
    """φ(û) with all four terms, λ = (¼, ¼, ¼, ¼), started from `default`."""
    return solve_phi(growth, seed, phiopt.Lambdas(0.25, 0.25, 0.25, 0.25), growth.phi.four_terms)


def phi_slice(growth: Growth, seed: int) -> Initialised:
    """φ(û) on the teacher's coordinates alone, λ = (.1, .1, .8, 0); the new ones stay as `matched` has them.

    An affine slice of the paper's problem, and the best that was found for new classes (`variants`). Its
    losses are over all classes: new rows that do not move cannot learn that theirs never occur.
    """
    return solve_slice(growth, seed, NOISE, growth.phi.three_terms)


METHODS: dict[str, Callable[[Growth, int], Initialised]] = {
    method.__name__: method for method in (scratch, zero, uniform, default, phi, phi4, phi_slice)
}


def constructed(growth: Growth, seed: int) -> nn.Module:
    """The student as constructed."""
    return built(growth.student, seed).to(growth.data.x.device)


def extended(growth: Growth, seed: int, fill: str) -> nn.Module:
    """The student that holds the teacher and a fill of `phiopt.grow`."""
    return phiopt.grow(
        growth.teacher,
        constructed(growth, seed),
        fill=fill,
        theta=growth.theta,
        lift=growth.lift,
        classes=growth.classes,
        inputs=growth.data.x[:2],
        seed=seed,
    )


def solve_phi(
    growth: Growth,
    seed: int,
    lambdas: phiopt.Lambdas,
    descent: Descent,
    *,
    fill: str | nn.Module = "default",
    old_only: bool = False,
    curvature: Curvature | None = None,
    scale: Literal["relative", "paper"] = "relative",
    layers: Callable[[Sequence[Layer]], Sequence[Layer]] = lambda layers: layers,
) -> Initialised:
    """φ(û) at these λ, started from a fill of `phiopt.grow` or a student.

    With ``old_only`` on the teacher's coordinates, of those ``layers`` that this picks from all of its.
    """
    student = constructed(growth, seed)
    start = extended(growth, seed, fill) if isinstance(fill, str) else fill
    optimizer = descent.optimizer()
    if old_only:
        map = mapped(growth, student)
        mask = map.mask()
        picked = {
            map.placements[n].student for layer in layers(layers_of(growth, map)) for n in layer
        }
        free = {name: mask[name] & (name in picked) for name in mask}
        optimizer = phiopt.masked(optimizer, free)
    solution = phiopt.initialize(
        growth.teacher,
        student,
        lambdas,
        (growth.data.x, growth.data.y),
        lift=growth.lift,
        classes=growth.classes,
        neighbourhood=growth.phi.neighbourhood,
        curvature=curvature,
        scale=scale,
        start={name: value.detach() for name, value in state_of(start).items()},
        solver=phiopt.TorchOpt(optimizer, descent.steps, growth.phi.batch_size),
        certificate="full",  # the records have the terms without weight too
        restrict_classes=growth.phi.restrict_classes,
        seed=seed,
        throw=False,
    )
    if isinstance(solution.error, KeyboardInterrupt):
        raise solution.error  # the run is to end, and to go on from its records
    passes = gradients(
        solution.stats,
        growth.phi.neighbourhood.samples,
        _products(curvature or phiopt.Frobenius(), growth) if lambdas.curvature else None,
    )
    spent = passes * growth.phi.batch_size / growth.batch_size
    return Initialised(solution.student, spent, start, report(solution))


def solve_slice(
    growth: Growth, seed: int, lambdas: phiopt.Lambdas, descent: Descent
) -> Initialised:
    """`phi_slice` at these λ."""
    free = replace(growth, phi=replace(growth.phi, restrict_classes=False))
    return solve_phi(free, seed, lambdas, descent, fill="matched", old_only=True)


def mapped(growth: Growth, student: nn.Module) -> GrowthMap:
    """Where the teacher sits in the student."""
    return GrowthMap.between(
        growth.teacher,
        student,
        lift=growth.lift,
        classes=growth.classes,
        inputs=growth.data.x[:2],
    )


def layers_of(growth: Growth, map: GrowthMap) -> list[Layer]:
    """The teacher's tensors by layer: a module with a matrix, and what follows without one (norms)."""
    u = state_of(growth.teacher)
    layers: list[Layer] = []
    begun = None
    for name in map.placements:
        module = name.rpartition(".")[0]
        if not layers or (u[name].ndim >= 2 and module != begun):
            layers.append([])
            begun = module
        layers[-1].append(name)
    return layers


def gradients(stats: Stats, samples: int, products: float | None) -> float:
    """The solver's work in plain gradient evaluations (a forward and a backward pass of its batch).

    A forward pass alone is a third of one. A Hessian-vector product alone was measured at 2.5, with
    the gradient of its square at 5 (benchmarks/test_gradient_cost.py times the sum of all terms).
    ``products`` are those that one gradient of the objective differentiates; None: there is no curvature in it, and
    they only report L_4, which nobody needs for w1.
    """
    passes = stats.gradient * (1 + samples)
    plain = passes + (stats.forward - passes) / 3
    if products is None:
        return plain
    differentiated = products * stats.gradient
    return plain + 5 * differentiated + 2.5 * (stats.hvp - differentiated)


def _products(curvature: Curvature, growth: Growth) -> float:
    """Those of a solver's step that are differentiated, in products with the Hessian of its whole batch."""
    size = min(growth.phi.batch_size, len(growth.data.x))
    part = curvature.part(size)
    products = curvature.products - curvature.searching
    return products if part is None else 2 * products * part / size


def report(solution: phiopt.Solution) -> dict[str, Any]:
    """What a record keeps of it."""
    return {
        "lambdas": [float(weight) for _, weight in solution.lambdas.items()],
        "status": solution.status.name,
        "advice": solution.status.value,
        "scale": solution.scale,
        "terms": solution.terms,
        "objective": solution.objective,
        "start_objective": solution.start_objective,
        "stats": asdict(solution.stats),
        "certificate": asdict(solution.certificate),
    }
