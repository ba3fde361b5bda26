"""Copy the teacher's early layers and start its late ones afresh (Yosinski et al., 2014: features are
general early and specific late).

    w[u_l] = û_l for layers l ≤ ⌈L / 2⌉, every other weight as PyTorch initialises it
"""

from experiments.methods import Growth, Initialised, constructed, mapped
from phiopt._types import Params
from phiopt.growth import GrowthMap
from phiopt.growth.grow import with_tensors
from phiopt.growth.trace import tensors_of


def late_reset(growth: Growth, seed: int) -> Initialised:
    """The first half of the layers comes from the teacher, rounded up."""
    student = constructed(growth, seed)
    map = mapped(growth, student)
    u = tensors_of(growth.teacher)
    layers = _layers(map, u)
    kept = [name for layer in layers[: (len(layers) + 1) // 2] for name in layer]
    early = {name: u[name].detach() for name in kept}
    return Initialised(with_tensors(student, map.embed(early, into=tensors_of(student))))


def _layers(map: GrowthMap, u: Params) -> list[list[str]]:
    """The teacher's tensors by layer: a module with a matrix, and what follows without one (norms)."""
    layers: list[list[str]] = []
    begun = None
    for name in map.placements:
        module = name.rpartition(".")[0]
        if not layers or (u[name].ndim >= 2 and module != begun):
            layers.append([])
            begun = module
        layers[-1].append(name)
    return layers
