"""The fourth term in the spectral norm, which is how the paper's ‖·‖_2 may be read too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator

from phiopt._checks import count, fraction
from phiopt._types import Params
from phiopt.derivatives import Product
from phiopt.objective.curvature import Curvature
from phiopt.objective.lanczos import lanczos
from phiopt.objective.probes import draw_probes
from phiopt.objective.search import Search


@dataclass(frozen=True)
class Spectral(Curvature):
    """L_4 = ‖∂²L_f/∂w²‖_2², the squared largest absolute eigenvalue of the Hessian (paper, section 4, term 3).

        ‖H‖_2² = max_{‖v‖ = 1} ‖H v‖²

    Lanczos' method searches for the maximiser v, from a random vector and with full orthogonalisation. It keeps
    one vector of the parameters' size for each product. The value is ‖H v‖². The gradient in w takes v for a
    constant, which is exact at the maximiser while the largest eigenvalue is simple (Danskin; Hellmann-Feynman).

    The search ends once v is known. The angle between a Ritz vector of residual r and the eigenvector has a sine
    of at most r / gap, where the gap is the distance to the rest of the spectrum (Davis and Kahan 1970). The
    gradient's relative error is in proportion to this sine, the value's to its square.

    If ``iterations`` products do not suffice, value and gradient are those of the best v so far. The solution says
    so: `Certificate.curvature_error` is the sine at the solution, `Stats.unsettled` counts such searches, and the
    status is ``UNSETTLED`` in place of ``SOLVED``. This happens where the largest eigenvalues cluster. Where two
    of them are equal ‖H‖_2 has a kink, as a ReLU has, and the gradient is an element of Clarke's generalised
    gradient (Overton 1992).

    Derivatives beyond the gradient leave out the motion of v.

    Args:
        iterations: Most products H v spent on finding v; default 100. Trained networks took 9 to 28,
            untrained ones 14 to 39 (docs/cost.md). One more product is differentiated.
        tol: The sine r / gap at which the search ends; default 1e-6, in (0, 1).

    Raises:
        ValueError: ``iterations`` < 1, or ``tol`` outside (0, 1).

    Examples:
        >>> Spectral(iterations=12).products
        13
    """

    iterations: int = 100
    tol: float = 1e-6

    def __post_init__(self) -> None:
        count("iterations", self.iterations)
        fraction("tol", self.tol)

    @property
    def fixed_part(self) -> str:
        return "its eigenvector"

    @property
    def float32_reason(self) -> str:
        return "Spectral's Lanczos method needs float32"

    @property
    def products(self) -> int:
        return self.iterations + 1

    @property
    def searching(self) -> int:
        return self.iterations

    def reporting(self, to: Callable[[Search], None]) -> Spectral:
        return _Reporting(self.iterations, self.tol, to=to)

    def draw(self, params: Params, generator: Generator) -> Params:
        # Random signs can be orthogonal to an eigenvector of few entries. Lanczos' method would then miss it.
        return draw_probes(params, 1, generator, "gaussian")

    def aim(self, operator: Callable[[], Product], probes: Params) -> Params:
        start = {name: probe[0] for name, probe in probes.items()}
        vector, search = lanczos(operator(), start, self.iterations, self.tol)
        self._searched(search)
        return {name: value[None] for name, value in vector.items()}

    def _searched(self, search: Search) -> None:
        """Called after each search."""


@dataclass(frozen=True, kw_only=True)
class _Reporting(Spectral):
    """The same, which reports its searches."""

    to: Callable[[Search], None]

    def _searched(self, search: Search) -> None:
        self.to(search)
