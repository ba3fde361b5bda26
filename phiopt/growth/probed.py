"""Where a callable lift puts the teacher's coordinates, found by applying it to probes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phiopt._types import Lift
from phiopt.growth.axes import Indices
from phiopt.growth.example import steady


@torch.no_grad()
def applied(lift: Lift, x: Tensor) -> Tensor:
    """ψ(x), with the same random numbers in every call. The global generators stay as they are."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        return steady("lift", lambda: lift(x)).detach().cpu()


def sources_of(lift: Lift, example: Tensor) -> tuple[NDArray[np.int64], bool]:
    """The teacher's coordinate on which each of the student's depends: -1 for none, -2 for several.

    In probe k, those coordinates change whose number has bit k. In further probes, those change whose number lacks it.
    A student's coordinate that changes in both depends on several.

    Returns:
        The coordinates, and whether the first coordinate that depends on each of the teacher's has its value.
    """
    shape = example.shape[1:]
    n = max(int(np.prod(shape)), 1)
    bits = np.arange(max(int(np.ceil(np.log2(n))), 1))
    coordinates = np.arange(n)
    ones = (coordinates[None] >> bits[:, None]) & 1
    changes = torch.from_numpy(np.concatenate([ones[:1] * 0, ones, 1 - ones]).astype(bool))
    generator = torch.Generator().manual_seed(0)
    if example.dtype.is_floating_point:
        base = 0.25 + 0.25 * torch.rand(n, generator=generator)
        probes = torch.where(changes, base + 0.25, base)
    else:
        probes = changes.long()
    probes = probes.to(example.dtype).reshape(-1, *shape)
    out = torch.cat(
        [
            applied(lift, torch.cat([part, part.new_zeros(len(example) - len(part), *shape)]))[
                : len(part)
            ]
            for part in probes.split(len(example))
        ]
    ).flatten(1)
    changed = (out[1:] != out[:1]).numpy().reshape(2, len(bits), -1)
    sources = (changed[0] << bits[:, None]).sum(0)
    sources[(changed[0] == changed[1]).any(0) | (sources >= n)] = -2
    sources[~changed.any((0, 1))] = -1
    at = np.flatnonzero(sources >= 0)
    same = bool((out[:, at].double() == probes.flatten(1)[:, sources[at]].double()).all())
    return sources, same or not example.dtype.is_floating_point


def separate(
    sources: NDArray[np.int64], shape: tuple[int, ...], size: tuple[int, ...]
) -> tuple[tuple[Indices, ...] | None, str | None]:
    """The index map of each axis, or the reason why there are none."""
    n = int(np.prod(shape))
    at = np.full(n, -1, dtype=np.int64)
    for j in np.flatnonzero(sources >= 0)[::-1]:
        at[sources[j]] = j
    if (at < 0).any():
        how = "mixes" if (sources == -2).any() else "drops"
        return (
            None,
            f"lift {how} coordinates of the input, so that none can be said to sit anywhere",
        )
    grid = np.stack(np.unravel_index(at, size), -1).reshape(*shape, len(size))
    index_maps = []
    for axis in range(len(shape)):
        line = grid[(0,) * axis + (slice(None),) + (0,) * (len(shape) - axis - 1)][:, axis]
        lined = line.reshape([-1 if d == axis else 1 for d in range(len(shape))])
        if not (grid[..., axis] == lined).all():
            return None, "lift moves coordinates along several axes at once"
        index_maps.append(line)
    return tuple(index_maps), None
