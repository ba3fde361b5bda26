"""GradMax (Evci et al., 2022, section 3): new units that get the largest gradient there is.

A new unit with incoming weights w = 0 changes nothing, and its gradient is linear in its outgoing weights ω:

    ∂L/∂w = Mᵀ ω,   M = E[∂L/∂z_{l+1} h_{l-1}ᵀ]

so the ω are M's top left singular vectors, all of one length. M is the mixed derivative ∂²L/∂ω∂w of a new
unit, and so Hessian-vector products give M v and Mᵀ ω for any kind of layer, for all new units of all layers at
once: first order in w, no new unit feels another. Subspace iteration makes the singular vectors of them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from experiments.methods import Growth, Initialised, extended, mapped
from experiments.rivals.common import batches, normal, task_loss
from experiments.rivals.layers import Layer, Weights, grown_layers, silenced
from phiopt._modules import state_of, with_tensors
from phiopt._types import Params
from phiopt.derivatives import linearise

SCALE = 0.5
"""Length of a new unit's outgoing weights as a fraction of the old units' mean."""
BIAS = 1e-3
"""Of new units: PyTorch's ReLU passes no gradient at 0."""
ITERATIONS = 3
"""Of subspace iteration; for a layer with as many new units as M has rows or columns, one is exact."""
PRODUCT = 2.5
"""Price of a Hessian-vector product in gradient evaluations, as `experiments.methods.gradients` has it."""


def gradmax(growth: Growth, seed: int) -> Initialised:
    """Incoming weights 0 and biases 0.001, outgoing half as long as the old units' are on average.

    M is taken on one batch of D1*. Where a layer has more new units than M has singular vectors, the others
    get random unit vectors in their span. Raises ``ValueError`` where nothing grows, or no gradient reaches a
    layer's new units, as through ReLU after a layer without biases.
    """
    student = extended(growth, seed, "default")
    map = mapped(growth, student)
    assert map.correspondence is not None
    quiet = silenced(student, map.correspondence, BIAS)
    layers = grown_layers(map.correspondence, quiet)
    if not layers:
        raise ValueError("student: nothing grows, must have more units in a layer than the teacher")
    loss, batch = task_loss(growth, student, map), batches(growth, seed)()
    generator = Generator().manual_seed(seed)
    directions = _directions(lambda params: loss(params, batch), quiet, layers, generator)
    old = [_gathered(quiet, layer.outgoing, layer.old).norm(dim=1).mean() for layer in layers]
    rows = [SCALE * length * d for length, d in zip(old, directions, strict=True)]
    added = _spread([y.outgoing for y in layers], [y.new for y in layers], rows, quiet)
    grown = {name: value + added[name] for name, value in quiet.items()}
    tensors = state_of(student)
    start, moved = (with_tensors(student, {**tensors, **params}) for params in (quiet, grown))
    return Initialised(moved, 2 * ITERATIONS * PRODUCT, start)


def _directions(
    loss: Callable[[Params], Tensor], quiet: Params, layers: Sequence[Layer], generator: Generator
) -> list[Tensor]:
    """For each layer the outgoing weights of its new units, unit vectors (new units, weights of one)."""
    hvp = linearise(loss, quiet).hvp
    outward = [layer.outgoing for layer in layers]
    inward = [layer.incoming for layer in layers]
    # M has no more singular vectors than rows or columns.
    units = [y.new[: min(_size(y.incoming), _size(y.outgoing))] for y in layers]

    def across(given: list[Weights], wanted: list[Weights], rows: list[Tensor]) -> list[Tensor]:
        """Mᵀ ω from the outgoing weights to the incoming ones, M v the other way."""
        product = hvp(_spread(given, units, [torch.linalg.qr(r.T).Q.T for r in rows], quiet))
        return [_gathered(product, w, u) for w, u in zip(wanted, units, strict=True)]

    like = next(iter(quiet.values()))
    shapes = [(len(u), _size(w)) for u, w in zip(units, outward, strict=True)]
    rows = [normal(like.new_empty(shape), generator) for shape in shapes]
    for _ in range(ITERATIONS):
        rows = across(inward, outward, across(outward, inward, rows))
    return [_filled(r, y, generator) for r, y in zip(rows, layers, strict=True)]


def _filled(rows: Tensor, layer: Layer, generator: Generator) -> Tensor:
    """One unit vector for each new unit, from rows that span M's top left singular vectors."""
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    rank = int((values > values[0] * max(rows.shape) * torch.finfo(rows.dtype).eps).sum())
    if rank == 0:
        raise ValueError(
            f"student: no gradient reaches new units read by {', '.join(layer.outgoing)}"
        )
    top = vectors[:rank]
    mixed = normal(rows.new_empty(len(layer.new) - len(top), rank), generator)
    return torch.cat([top, torch.nn.functional.normalize(mixed) @ top])


def _size(weights: Weights) -> int:
    return sum(index.shape[1] for index in weights.values())


def _gathered(params: Params, weights: Weights, units: Tensor) -> Tensor:
    """The weights of these units, a row each."""
    parts = [
        params[name].flatten()[index[units].to(params[name].device)]
        for name, index in weights.items()
    ]
    return torch.cat(parts, dim=1)


def _spread(
    sides: Sequence[Weights], units: Sequence[Tensor], rows: Sequence[Tensor], like: Params
) -> Params:
    """The opposite: parameters that are zero but for these weights of each layer's units."""
    flat = {name: torch.zeros_like(value).flatten() for name, value in like.items()}
    for weights, unit, row in zip(sides, units, rows, strict=True):
        pieces = row.split([index.shape[1] for index in weights.values()], dim=1)
        for (name, index), piece in zip(weights.items(), pieces, strict=True):
            flat[name][index[unit].to(piece.device)] = piece
    return {name: value.view_as(like[name]) for name, value in flat.items()}
