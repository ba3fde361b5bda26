"""The registry of fills, and how a fill is applied. The fills are in `phiopt.growth.fills`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from phiopt._checks import instance, part
from phiopt._types import Function, Params
from phiopt.growth.given import check_tensors
from phiopt.growth.inserted import Inserted
from phiopt.growth.map import GrowthMap
from phiopt.growth.taken_off import without


@dataclass(frozen=True)
class Start:
    """What a fill is given.

    Attributes:
        map: Which coordinates of the student hold the teacher's.
        teacher: The teacher's parameters and buffers that the map places, by name.
        student: The student's parameters and buffers as constructed, by name.
        buffers: Names of the student's buffers.
        theta: Width of the uniform fills.
        generator: A generator for the fill's random numbers.
    """

    map: GrowthMap
    teacher: Params
    student: Params
    buffers: frozenset[str]
    theta: float
    generator: torch.Generator


Fill = Callable[[Start], Params]
FILLS: dict[str, Fill] = {}
PRESERVING = ("zero-out", "net2wider", "vv-zz")
"""The library's fills that keep the function where that is possible."""
OWN: set[str] = set()
"""Names of the library's own fills."""


def register_fill(name: str) -> Callable[[Fill], Fill]:
    """Add a fill to `phiopt.grow`: a function from `Start` to all the student's tensors.

    Raises:
        TypeError, ValueError: The name is no text, or the library has a fill of that name, or no function is decorated.

    Examples:
        >>> @register_fill("ones")
        ... def ones(start):
        ...     new = {k: torch.ones_like(v) for k, v in start.student.items()}
        ...     return start.map.embed(start.teacher, into=new)
    """

    instance("name", name, str, 'text, as in @register_fill("mine")')
    if not name:
        raise ValueError("name: got '', must be text of some length")
    if name in OWN:
        raise ValueError(f"name: got {name!r}, a fill of the library, must be another")

    def add(fill: Fill) -> Fill:
        part("fill", fill, Function)
        FILLS[name] = fill
        return fill

    return add


def filled(name: str, start: Start) -> Params:
    """All tensors of the student, made by the fill ``name``.

    Raises:
        TypeError, ValueError: A fill from outside makes something else; the message names it.
    """
    out = FILLS[name](start)
    if name in OWN:
        return identities(start, out)
    argument = f"fill={name!r} made"
    check_tensors(argument, out)
    for key in sorted(out.keys() ^ start.student.keys()):
        what = "lacks" if key in start.student else "has"
        raise ValueError(f"{argument} a result that {what} {key!r}, must be the student's tensors")
    for key, value in out.items():
        shape = tuple(start.student[key].shape)
        if tuple(value.shape) != shape:
            raise ValueError(f"{argument} {key!r} of shape {tuple(value.shape)}, must be {shape}")
        if value.isnan().any():
            raise ValueError(f"{argument} NaN in {key!r}, must be numbers")
    return identities(start, out)


def identities(start: Start, out: Params) -> Params:
    """Set the layers that only the student has to the identity."""
    out = dict(out)
    for layer in start.map.inserted:
        if layer.bias is not None:
            out[layer.bias] = torch.zeros_like(out[layer.bias])
        if layer.weight is None:
            continue
        weight = torch.zeros_like(out[layer.weight])
        if layer.how == "taken-off":
            out |= without(layer, out)
            continue
        if layer.how == "stream":
            out |= undone(layer, out)
            continue
        if layer.how == "constant":
            out[layer.weight] = weight + layer.value
            continue
        if layer.how == "identity" and weight.ndim == 1:  # a batch norm: undo its statistics
            statistics = (f"{layer.module}.running_{kind}" for kind in ("mean", "var"))
            mean, variance = (out[name].to(weight) for name in statistics)
            weight += (variance + layer.eps).sqrt()
            if layer.bias is not None:
                out[layer.bias] += mean
        elif layer.how == "identity":
            rows = torch.arange(weight.shape[0], device=weight.device)
            centre = weight[0, 0].numel() // 2  # of an odd kernel
            weight.view(*weight.shape[:2], -1)[rows, rows % weight.shape[1], centre] = 1.0
        out[layer.weight] = weight
    return out


def undone(layer: Inserted, tensors: Params) -> Params:
    """The weight and the bias with which a normalisation of the stream comes nearest to the identity.

    The stream is ``γ n + β``, where ``n`` has mean 0 and variance 1 over the units. So its mean is that of β, and its
    variance that of β and the mean of γ², up to how ``n`` and the parameters happen to agree. With these as bias and
    weight, the normalisation is undone up to that, and exactly if γ and β are the same for all units.
    """
    gamma, beta = (tensors[name] if name else None for name in layer.made_by)
    assert layer.weight is not None
    assert gamma is not None
    variance, mean = gamma.square().mean() + layer.eps, gamma.new_zeros(())
    if beta is not None and layer.bias is not None:
        variance, mean = variance + beta.var(correction=0), beta.mean()
    out = {layer.weight: variance.sqrt().to(tensors[layer.weight]).expand_as(tensors[layer.weight])}
    if layer.bias is not None:
        out[layer.bias] = mean.to(tensors[layer.bias]).expand_as(tensors[layer.bias])
    return {name: value.clone() for name, value in out.items()}
