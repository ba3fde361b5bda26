"""Where the weights of a grown layer's units lie: those that make a unit, and those that read it."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phiopt._types import Params
from phiopt.growth.axes import Indices, Term
from phiopt.growth.correspond import Correspondence
from phiopt.growth.index_map import index_map, leaves, positions
from phiopt.growth.pairs import TensorPlace
from phiopt.growth.unify import find

OLD, NEW = -1, -2
"""Coordinates that are no unit's of the layer in question: the teacher's, and those of other new units."""

Weights = dict[str, Tensor]
"""By parameter, flat indices of shape ``(units, weights of one)``."""


@dataclass(frozen=True)
class Layer:
    """The weights between each unit and the teacher's units before and after it; ``old`` and ``new`` units."""

    incoming: Weights
    outgoing: Weights
    old: Tensor
    new: Tensor


def grown_axes(state: Correspondence) -> list[Term]:
    """The layers whose units grow, each once; ψ's new pixels and the new classes are no layer's."""
    axes = {
        id(leaf): leaf
        for place in state.places.values()
        for axis in place.axes
        for leaf in leaves(axis.term)
        if not (leaf.same or leaf.external or leaf.t == 0)
    }
    return list(axes.values())


def grown_layers(state: Correspondence, params: Params) -> list[Layer]:
    """Every layer that grows, made and read by matrices or kernels."""
    layers = []
    for leaf in grown_axes(state):
        incoming: Weights = {}
        outgoing: Weights = {}
        for place in state.places.values():
            if place.student not in params or len(place.axes) < 2:
                continue
            reads = place.input_axes
            for side, own in ((outgoing, reads), (incoming, set(range(len(place.axes))) - reads)):
                if any(part is leaf for dim in own for part in leaves(place.axes[dim].term)):
                    side[place.student] = _weights(place, leaf, own)
        if incoming and outgoing:
            old = torch.from_numpy(index_map(leaf))
            new = torch.from_numpy(np.setdiff1d(np.arange(leaf.s), index_map(leaf)))
            layers.append(Layer(incoming, outgoing, old, new))
    return layers


def silenced(student: nn.Module, state: Correspondence, bias: float) -> Params:
    """The student's parameters with the weights of all new units zero and their biases ``bias``."""
    params = {name: value.detach().clone() for name, value in student.named_parameters()}
    for place in state.places.values():
        if place.student not in params:
            continue
        value = params[place.student]
        new = torch.from_numpy(_marks(place, None, ()) == NEW).to(value.device)
        if value.ndim >= 2:
            value[new] = 0.0
        elif "bias" in place.student.rpartition(".")[2]:
            value[new] = bias
    return params


def _weights(place: TensorPlace, leaf: Term, own: Collection[int]) -> Tensor:
    unit = _marks(place, leaf, own).ravel()
    where = np.flatnonzero(unit >= 0)
    order = np.argsort(unit[where], kind="stable")
    return torch.from_numpy(where[order].reshape(leaf.s, -1))


def _marks(place: TensorPlace, leaf: Term | None, own: Collection[int]) -> NDArray[np.int64]:
    """Of each entry the unit of ``leaf`` that the axes ``own`` give it, OLD or NEW; of the tensor's shape."""
    marks = np.array(OLD)
    for dim, axis in enumerate(place.axes):
        marks = _both(marks[..., None], _unit(axis.term, leaf if dim in own else None))
    return marks


def _unit(term: Term, leaf: Term | None) -> Indices:
    """The same along one axis."""
    node = find(term)
    if node is leaf:
        return np.arange(node.s)
    marks = np.full(node.s, OLD, dtype=np.int64)
    if node.kind == "prod":
        marks = np.array([OLD])
        for part in node.parts:
            marks = _both(marks[:, None], _unit(part, leaf)).ravel()
    elif node.parts:
        for part, at in zip(node.parts, positions(node)[1], strict=True):
            marks[at] = _unit(part, leaf)
    elif not (node.same or node.external):
        marks[:] = NEW
        marks[index_map(node)] = OLD
    return marks


def _both(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(np.minimum(a, b) == NEW, NEW, np.maximum(a, b))
