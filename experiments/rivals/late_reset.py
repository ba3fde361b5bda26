"""Copy the teacher's early layers and start its late ones afresh (Yosinski et al., 2014: features are
general early and specific late).

    w[u_l] = û_l for layers l ≤ ⌈L / 2⌉, every other weight as PyTorch initialises it

and the same of φ(û): its early layers, new units included, with late ones afresh.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from experiments.methods import (
    Growth,
    Initialised,
    Layer,
    constructed,
    layers_of,
    mapped,
    phi_slice,
)
from phiopt._modules import state_of, with_tensors

Layers = Callable[[Sequence[Layer]], Sequence[Layer]]


def late_reset(growth: Growth, seed: int) -> Initialised:
    """The first half of the layers comes from the teacher, rounded up."""
    student = constructed(growth, seed)
    map = mapped(growth, student)
    u = state_of(growth.teacher)
    early = {
        name: u[name].detach() for layer in first_half(layers_of(growth, map)) for name in layer
    }
    return Initialised(with_tensors(student, map.embed(early, into=state_of(student))))


def phi_early(growth: Growth, seed: int) -> Initialised:
    """The first half of the layers, rounded up, comes from `phi_slice`."""
    solved = phi_slice(growth, seed)
    return replace(solved, student=rest_afresh(growth, seed, solved.student, first_half))


def rest_afresh(growth: Growth, seed: int, student: nn.Module, kept: Layers) -> nn.Module:
    """The student with all but the layers that ``kept`` picks as constructed, new units too."""
    fresh = constructed(growth, seed)
    map, w = mapped(growth, fresh), state_of(student)
    places = {
        map.placements[name].student for layer in kept(layers_of(growth, map)) for name in layer
    }
    kept = {name: w[name].detach() for name in places}
    return with_tensors(fresh, state_of(fresh) | kept)


def first_half(layers: Sequence[Layer]) -> Sequence[Layer]:
    """Rounded up."""
    return layers[: (len(layers) + 1) // 2]
