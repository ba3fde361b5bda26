"""The paper's four terms."""

from __future__ import annotations

from collections.abc import Callable

from phiopt._types import Loss, Model, Params
from phiopt.data import Data
from phiopt.objective.curvature import Curvature, CurvatureTerm
from phiopt.objective.frobenius import Frobenius
from phiopt.objective.lambdas import Lambdas
from phiopt.objective.neighbourhood import Neighbourhood
from phiopt.objective.noise import NoiseTerm
from phiopt.objective.objective import Objective
from phiopt.objective.proximity import ProximityTerm
from phiopt.objective.task import TaskTerm
from phiopt.objective.term import Term

PAPER_TERMS: tuple[type[Term], ...] = (TaskTerm, ProximityTerm, NoiseTerm, CurvatureTerm)
"""The kinds of the four, in the paper's order."""


def paper_terms(
    teacher: Params,
    extract: Callable[[Params], Params],
    neighbourhood: Neighbourhood | None = None,
    curvature: Curvature | None = None,
) -> list[Term]:
    """L_f, L_2, L_3^δ and L_4, in the paper's order (section 4).

    Args:
        teacher: u, by the teacher's names.
        extract: w ↦ w[u], by the teacher's names.
        neighbourhood: U_δ; None: without L_3.
        curvature: The estimator of L_4; None: without L_4.
    """
    terms: list[Term] = [TaskTerm(), ProximityTerm(teacher, extract)]
    if neighbourhood is not None:
        terms.append(NoiseTerm(neighbourhood))
    if curvature is not None:
        terms.append(CurvatureTerm(curvature))
    return terms


def paper_objective(
    model: Model,
    teacher: Params,
    extract: Callable[[Params], Params],
    loss: Loss,
    lambdas: Lambdas,
    data: Data | None = None,
    neighbourhood: Neighbourhood | None = None,
    curvature: Curvature | None = Frobenius(),  # noqa: B008  (it cannot be modified)
    micro_batch: int | None = None,
) -> Objective:
    """L of the paper's four terms, in the paper's scale; see `paper_terms` and `Objective`."""
    terms = paper_terms(teacher, extract, neighbourhood, curvature)
    return Objective(model, loss, terms, lambdas, data=data, micro_batch=micro_batch)
