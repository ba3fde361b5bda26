"""Random points of the unit cube for U_δ: independent, antithetic, or quasi-random."""

from typing import Literal, get_args

import scipy
import torch
from torch import Generator, Tensor

from phiopt._checks import one_of

Sampling = Literal["independent", "antithetic", "sobol"]


def check_sampling(sampling: str, samples: int) -> None:
    """Antithetic samples come in pairs, Sobol points in powers of two."""
    one_of("sampling", sampling, get_args(Sampling))
    if sampling == "antithetic" and samples % 2:
        raise ValueError(f"samples: got {samples}, must be even for antithetic pairs")
    if sampling == "sobol" and samples & (samples - 1):
        raise ValueError(f"samples: got {samples}, must be a power of two for Sobol points")


def float32_reason(sampling: str) -> str:
    """Why models must be float32 or wider, if they must: see `DeclaresPrecision`."""
    return "Sobol points need float32" if sampling == "sobol" else ""


def uniforms(samples: int, like: Tensor, generator: Generator, sampling: Sampling) -> Tensor:
    """Points of [0, 1), ``(samples, *like.shape)``. Each is uniform. Examples, on axis 0 of ``like``, are independent.

    The samples of one example are independent; or pairs of u and 1 - u; or the first points of Sobol's sequence
    in the dimensions of an example, shifted by an independent random vector modulo 1 (Cranley and Patterson 1976).
    """
    if sampling == "independent":
        return _rand((samples, *like.shape), like, generator)
    if sampling == "antithetic":
        half = _rand((samples // 2, *like.shape), like, generator)
        return torch.cat([half, 1 - half])
    points = scipy.stats.qmc.Sobol(_dimension(like), scramble=False).random(samples)
    shape = (samples, 1, *like.shape[1:])
    grid = torch.as_tensor(points, device="cpu").to(like.device, like.dtype).view(shape)
    return (grid + _rand((1, *like.shape), like, generator)).remainder(1.0)


def normals(samples: int, like: Tensor, generator: Generator, sampling: Sampling) -> Tensor:
    """The same for standard normal numbers. Antithetic pairs are u and -u. Sobol points go through the inverse of the
    normal distribution function.
    """
    shape = (samples, *like.shape)
    if sampling == "sobol":
        tiny = torch.finfo(like.dtype).eps
        u = uniforms(samples, like, generator, sampling).clamp(tiny, 1 - tiny)
        return torch.special.ndtri(u)
    if sampling == "antithetic":
        half = torch.randn(
            samples // 2, *shape[1:], generator=generator, dtype=like.dtype, device=like.device
        )
        return torch.cat([half, -half])
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _dimension(like: Tensor) -> int:
    dimension, most = like[0].numel(), scipy.stats.qmc.Sobol.MAXDIM
    if dimension > most:
        raise ValueError(
            f"sampling: 'sobol' has {most} dimensions at most, inputs have {dimension}"
        )
    return dimension


def _rand(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
