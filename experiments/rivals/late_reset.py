"""Copy the teacher's early layers and start its late ones afresh (Yosinski et al., 2014: features are
general early and specific late).

    w[u_l] = û_l for layers l ≤ ⌈L / 2⌉, every other weight as PyTorch initialises it

and the same of φ(û): its early layers, new units included, with late ones afresh.
"""

from dataclasses import replace

from experiments.methods import Growth, Initialised, constructed, mapped, phi_slice
from phiopt._types import Params
from phiopt.growth import GrowthMap
from phiopt.growth.grow import with_tensors
from phiopt.growth.trace import tensors_of


def late_reset(growth: Growth, seed: int) -> Initialised:
    """The first half of the layers comes from the teacher, rounded up."""
    student = constructed(growth, seed)
    map = mapped(growth, student)
    u = tensors_of(growth.teacher)
    early = {name: u[name].detach() for name in _early(map, u)}
    return Initialised(with_tensors(student, map.embed(early, into=tensors_of(student))))


def phi_early(growth: Growth, seed: int) -> Initialised:
    """The first half of the layers, rounded up, comes from `phi_slice`."""
    solved = phi_slice(growth, seed)
    fresh = constructed(growth, seed)
    map, w1 = mapped(growth, fresh), tensors_of(solved.student)
    places = {map.placements[name].student for name in _early(map, tensors_of(growth.teacher))}
    early = {name: w1[name].detach() for name in places}
    return replace(solved, student=with_tensors(fresh, tensors_of(fresh) | early))


def _early(map: GrowthMap, u: Params) -> list[str]:
    layers = _layers(map, u)
    return [name for layer in layers[: (len(layers) + 1) // 2] for name in layer]


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
