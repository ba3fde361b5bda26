"""Random vectors by which traces and norms of the Hessian are estimated."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.func import vmap

from phiopt._types import Params

Distribution = Literal["rademacher", "gaussian"]


def draw_probes(
    params: Params, probes: int, generator: Generator, distribution: Distribution = "rademacher"
) -> Params:
    """Independent vectors v with E v vᵀ = I, shaped as ``params`` with a leading axis ``probes``:
    signs ±1, or standard normal numbers.
    """
    draw = _signs if distribution == "rademacher" else _normals
    return {name: draw((probes, *p.shape), p, generator) for name, p in params.items()}


def each(product: Callable[[Params], Params], probes: Params) -> Params:
    """``product`` of every probe, stacked; several at once by ``torch.vmap``."""
    if len(next(iter(probes.values()))) > 1:
        return vmap(product)(probes)
    single = product({name: probe[0] for name, probe in probes.items()})
    return {name: value[None] for name, value in single.items()}


def _signs(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    bits = torch.randint(2, shape, generator=generator, dtype=like.dtype, device=like.device)
    return bits.mul_(2).sub_(1)


def _normals(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
