"""LiGO (Wang et al., 2023, "Learning to Grow Pretrained Models", section 3), the width operators.

    W' = [[W, W Aᵀ], [B W, B W Aᵀ]] = R_l W R_{l-1}ᵀ,   R = [I; B],   A of a layer = B of the layer that it reads

Each layer's new units are a linear combination B of its old ones, in every tensor that makes or reads
them. Only the matrices B are trained, by Adam on the task loss L_f(w', D1*) from one-hot rows; then w' is
frozen into weights. Columns are divided by the number of times that the start reads an old unit, so that the
start computes the teacher's function, as Net2Net does: undivided, copies count twice, and the students trained
from it ended at a higher loss (digits 0-4 to 0-9, three seeds, CNN: .36 against .18; MLP: .21 against .17).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from experiments.methods import Growth, Initialised, extended, mapped
from experiments.rivals.common import batches, task_loss
from experiments.rivals.layers import grown_axes
from phiopt._modules import state_of, with_tensors
from phiopt._types import Params
from phiopt.growth import GrowthMap
from phiopt.growth.axes import Indices, Term
from phiopt.growth.index_map import index_map, positions
from phiopt.growth.unify import find

STEPS, RATE = 100, 3e-3
"""Of Adam. As many steps as published; 300 were no better spent."""


def ligo(growth: Growth, seed: int) -> Initialised:
    """B is trained for 100 steps of Adam at 3e-3, over the same classes.

    New classes and pixels, which are no combination of old ones, stay as constructed, as do layers that
    the teacher lacks. Raises ``ValueError`` where nothing grows.
    """
    start = extended(growth, seed, "default")
    map = mapped(growth, start)
    growing = Expansion(map, state_of(growth.teacher), state_of(start), seed)
    if not growing.one_hot:
        raise ValueError("student: nothing grows, must have more units in a layer than the teacher")
    matrices = [b.clone().requires_grad_() for b in growing.one_hot]
    loss, batch = task_loss(growth, start, map), batches(growth, seed)
    optimizer = torch.optim.Adam(matrices, lr=RATE)
    trained = [name for name, _ in start.named_parameters()]
    for _ in range(STEPS):
        optimizer.zero_grad()
        grown = growing.apply(matrices)
        loss({name: grown[name] for name in trained}, batch()).backward()
        optimizer.step()
    with torch.no_grad():
        copied, student = (
            with_tensors(start, growing.apply(b)) for b in (growing.one_hot, matrices)
        )
    return Initialised(student, STEPS, copied)


class Expansion:
    """The student's tensors as a function of the matrices B, one for each layer whose units grow.

    ``one_hot`` are matrices (new units, old units) whose rows copy old units, each once before any is copied
    again.
    """

    def __init__(self, map: GrowthMap, teacher: Params, start: Params, seed: int) -> None:
        assert map.correspondence is not None
        self._places = map.correspondence.places
        self._teacher = {name: value.detach() for name, value in teacher.items()}
        self._start = {name: value.detach() for name, value in start.items()}
        self._layers = grown_axes(map.correspondence)
        like = next(value for value in teacher.values() if value.is_floating_point())
        rng = np.random.default_rng(seed)
        copied = [_copied(leaf, rng) for leaf in self._layers]
        self.one_hot = [
            torch.eye(leaf.t, dtype=like.dtype, device=like.device)[_index(rows, like)]
            for leaf, rows in zip(self._layers, copied, strict=True)
        ]
        self._reads = [1 + b.sum(0) for b in self.one_hot]

    def apply(self, matrices: Sequence[Tensor]) -> Params:
        """w', differentiable in the matrices. Variances go with R², as those of independent units do."""
        whole = [_whole(leaf, b) for leaf, b in zip(self._layers, matrices, strict=True)]
        makes = self._by_layer(whole)
        reads = self._by_layer([r / n for r, n in zip(whole, self._reads, strict=True)])
        squares = self._by_layer([r * r for r in whole])
        grown = dict(self._start)
        for name, place in self._places.items():
            value, fresh = self._teacher[name], self._start[place.student]
            if not fresh.is_floating_point():
                continue
            derived = torch.ones_like(fresh, dtype=torch.bool)
            for dim, axis in enumerate(place.axes):
                rows = squares if name.endswith("running_var") else makes
                value = _expanded(value, dim, axis.term, reads if dim in place.input_axes else rows)
                shape = [-1 if d == dim else 1 for d in range(fresh.ndim)]
                derived &= _derived(axis.term).to(fresh.device).view(shape)
            grown[place.student] = torch.where(derived, value, fresh)
        return grown

    def _by_layer(self, matrices: Sequence[Tensor]) -> dict[int, Tensor]:
        return {id(leaf): r for leaf, r in zip(self._layers, matrices, strict=True)}


def _copied(leaf: Term, rng: np.random.Generator) -> Indices:
    """Which old unit each new one copies."""
    rounds = -(-(leaf.s - leaf.t) // leaf.t)
    return np.concatenate([rng.permutation(leaf.t) for _ in range(rounds)])[: leaf.s - leaf.t]


def _whole(leaf: Term, b: Tensor) -> Tensor:
    """R = [I; B], the old units where they sit; (student's units, teacher's)."""
    old = index_map(leaf)
    order = np.argsort(np.concatenate([old, np.setdiff1d(np.arange(leaf.s), old)]))
    return torch.cat([torch.eye(leaf.t).to(b), b])[_index(order, b)]


def _expanded(value: Tensor, dim: int, term: Term, by: dict[int, Tensor]) -> Tensor:
    """``value`` times the R of one axis, built from those of the layers that the axis is made of."""
    node = find(term)
    if node.same:
        return value
    if node.kind == "prod":
        value = value.unflatten(dim, [part.t for part in node.parts])
        for i, part in enumerate(node.parts):
            value = _expanded(value, dim + i, part, by)
        return value.flatten(dim, dim + len(node.parts) - 1)
    if node.parts:
        t_at, s_at = positions(node)
        pieces = [
            _expanded(value.index_select(dim, _index(t, value)), dim, part, by)
            for part, t in zip(node.parts, t_at, strict=True)
        ]
        order = _index(np.argsort(np.concatenate(s_at)), value)
        return torch.cat(pieces, dim).index_select(dim, order)
    # Of new classes and pixels nothing is known.
    unknown = value.new_zeros(node.s - node.t, node.t)
    matrix = by[id(node)] if id(node) in by else _whole(node, unknown)
    return torch.tensordot(matrix, value, dims=([1], [dim])).movedim(0, dim)


def _derived(term: Term) -> Tensor:
    """Which coordinates of an axis follow from the teacher: all but new classes and pixels."""
    node = find(term)
    if not node.parts:
        known = torch.ones(node.s, dtype=torch.bool)
        if not node.same and (node.external or node.t == 0):
            known[:] = False
            known[torch.from_numpy(index_map(node))] = True
        return known
    if node.kind == "prod":
        known = torch.ones(1, dtype=torch.bool)
        for part in node.parts:
            known = (known[:, None] & _derived(part)).flatten()
        return known
    known = torch.empty(node.s, dtype=torch.bool)
    for part, at in zip(node.parts, positions(node)[1], strict=True):
        known[torch.from_numpy(at)] = _derived(part)
    return known


def _index(array: Indices, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.device)
