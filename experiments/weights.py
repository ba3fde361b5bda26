"""φ at other λ than the paper's named ones, and at learned ones."""

from collections.abc import Callable

import phiopt
from experiments.methods import (
    NOISE,
    Growth,
    Initialised,
    constructed,
    extended,
    report,
    solve_phi,
    solve_slice,
)
from phiopt import Lambdas

HORIZON = 10
"""Training steps on D2 after which a λ is judged."""
HELD_OUT = 512
"""Validation images that judge it."""


def phi_at(lambdas: Lambdas) -> Callable[[Growth, int], Initialised]:
    """φ(û) at these λ, with the solver's settings for three terms where λ4 = 0 and for four elsewhere."""

    def solved(growth: Growth, seed: int) -> Initialised:
        descent = growth.phi.four_terms if lambdas.curvature else growth.phi.three_terms
        return solve_phi(growth, seed, lambdas, descent)

    return solved


def phi4_slice(growth: Growth, seed: int) -> Initialised:
    """`phi_slice` with all four terms, λ = (¼, ¼, ¼, ¼)."""
    return solve_slice(growth, seed, Lambdas(0.25, 0.25, 0.25, 0.25), growth.phi.four_terms)


def phi_learned(growth: Growth, seed: int) -> Initialised:
    """φ(û) at the λ that `phiopt.learn` finds from (⅓, ⅓, ⅓, 0), λ4 = 0 for its price.

    The outer loss is half clean, half in U_δ, after `HORIZON` steps on D2's training part, on images of its
    validation part.
    """
    if growth.d2 is None:
        raise ValueError("phi-learned: needs D2 before the student is trained")
    train, held_out = growth.d2
    descent = growth.phi.three_terms
    outer = phiopt.OuterLoss(
        (held_out.x, held_out.y),
        neighbourhood=growth.noise or growth.phi.neighbourhood,
        training=phiopt.Training((train.x, train.y), steps=HORIZON, batch_size=growth.batch_size),
        batch_size=HELD_OUT,
    )
    learned = phiopt.learn(
        growth.teacher,
        constructed(growth, seed),
        (growth.data.x, growth.data.y),
        outer,
        lambdas=(1 / 3, 1 / 3, 1 / 3, 0),
        lift=growth.lift,
        classes=growth.classes,
        neighbourhood=growth.phi.neighbourhood,
        solver=phiopt.TorchOpt(
            descent.optimizer(eps_root=1e-8),
            descent.steps,
            growth.phi.batch_size,
            check_every=descent.steps,
        ),
        restrict_classes=growth.phi.restrict_classes,
        seed=seed,
    )
    return Initialised(
        learned.solution.student,
        _price(learned, growth),
        extended(growth, seed, "default"),
        report(learned.solution),
    )


def _price(learned: phiopt.Learned, growth: Growth) -> float:
    """In evaluations of the student's batches: φ's solves and the outer losses, a derivative of either three
    more; the solver's judgements on held-out draws are forward passes, a third of an evaluation each.
    """
    terms, share = 2, growth.phi.batch_size / growth.batch_size
    judged = learned.solution.stats.forward - terms * learned.solution.stats.gradient
    looked = 2 * HELD_OUT / growth.batch_size / 3
    return sum(
        share * (terms * trial.gradients * (1 + 3 * trial.differentiated) + judged / 3)
        + (HORIZON + looked) * (1 + 3 * trial.differentiated)
        for trial in learned.path
    )


WEIGHTED = {"phi-noise": phi_at(NOISE), "phi-learned": phi_learned, "phi4_slice": phi4_slice}
