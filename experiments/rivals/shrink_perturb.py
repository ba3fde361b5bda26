"""Shrink and perturb (Ash & Adams, 2020, section 4): a warm start that gradients can still move.

w[u] = λ û + ε,  ε ~ N(0, σ²)
"""

from torch import Generator

from experiments.methods import Growth, Initialised, extended, mapped
from experiments.rivals.common import normal
from phiopt._modules import state_of, with_tensors

SHRINK = 0.6
SIGMA = 0.01


def shrink_perturb(growth: Growth, seed: int) -> Initialised:
    """At the teacher's places λ = 0.6 and σ = 0.01; the new weights are fresh already."""
    student = extended(growth, seed, "default")
    map = mapped(growth, student)
    generator = Generator().manual_seed(seed)
    u = {
        name: SHRINK * value.detach() + SIGMA * normal(value, generator)
        for name, value in growth.teacher.named_parameters()
        if name in map.placements
    }
    return Initialised(with_tensors(student, map.embed(u, into=state_of(student))))
