"""φ at other λ than the paper's named ones."""

from collections.abc import Callable

from experiments.methods import NOISE, Growth, Initialised, solve_phi
from phiopt import Lambdas


def phi_at(lambdas: Lambdas) -> Callable[[Growth, int], Initialised]:
    """φ(û) at these λ, with the solver's settings for three terms where λ4 = 0 and for four elsewhere."""

    def solved(growth: Growth, seed: int) -> Initialised:
        descent = growth.phi.four_terms if lambdas.curvature else growth.phi.three_terms
        return solve_phi(growth, seed, lambdas, descent)

    return solved


WEIGHTED = {"phi-noise": phi_at(NOISE)}
