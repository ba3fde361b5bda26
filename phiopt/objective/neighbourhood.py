"""U_δ(x): where the noisy inputs x' of the noise term come from (paper, section 4, L3; section 5.2,
corruption).

A draw is standardised noise ε that does not depend on δ, and x' = x + δ ε. So the same draw serves different δ
(common random numbers), and x' is differentiable in δ (reparameterisation).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from math import inf
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

import torch
from torch import Generator, Tensor

from phiopt._checks import Scalar, count, known, number, scalar
from phiopt._shown import shown
from phiopt.objective.sampling import Sampling, check_sampling, float32_reason, normals, uniforms

Draw: TypeAlias = tuple[Tensor, ...]
"""Standardised noise, each tensor of shape ``(samples, batch, ...)``."""


@runtime_checkable
class Neighbourhood(Protocol):
    """A distribution of x' around x. ``perturb(x, draw(x, generator))`` has shape ``(samples,
    *x.shape)``.

    That is all that a neighbourhood must have. One with a size δ declares it: see `HasDelta`.
    """

    def perturb(self, inputs: Tensor, draw: Draw) -> Tensor:
        """The noisy inputs x', ``(samples, batch, ...)``."""
        ...

    def draw(self, inputs: Tensor, generator: Generator) -> Draw:
        """Standardised noise for a floating batch ``(batch, ...)``; the generator is on the batch's
        device.
        """
        ...


@runtime_checkable
class HasDelta(Protocol):
    """A neighbourhood with a size δ. Adjoints differentiate in δ, and `learn` chooses δ: both put other values
    in its place. So ``delta`` is a field of a dataclass, or the neighbourhood is `Resizable`.
    """

    @property
    def delta(self) -> Scalar:
        """δ, in the units of the inputs."""
        ...


@runtime_checkable
class Resizable(Protocol):
    """A neighbourhood that makes its own copy at another δ."""

    def with_delta(self, delta: Scalar) -> Neighbourhood:
        """The same neighbourhood, whose ``delta`` is this number or tensor itself."""
        ...


@runtime_checkable
class HasLargestDelta(Protocol):
    """A neighbourhood whose δ has an upper end, which `learn` does not pass."""

    @property
    def largest_delta(self) -> float: ...


@runtime_checkable
class Cautious(Protocol):
    """A neighbourhood that knows inputs which it probably does not suit."""

    def caution(self, inputs: Tensor) -> str:
        """What is odd about it on these inputs, and what to do, in a sentence; empty if nothing is."""
        ...


def delta_of(neighbourhood: object) -> Scalar | None:
    """δ; None of a neighbourhood that has none."""
    return neighbourhood.delta if isinstance(neighbourhood, HasDelta) else None


def at_delta(neighbourhood: Neighbourhood, delta: Scalar) -> Neighbourhood:
    """The same neighbourhood at this δ.

    Raises:
        TypeError: There is no way to put another δ in its place, or the way loses a tensor.
    """
    name, whole = type(neighbourhood).__name__, neighbourhood
    moved: Any
    if isinstance(whole, Resizable):
        moved = whole.with_delta(delta)
    elif _has_field(whole, "delta"):
        moved = replace(cast(Any, whole), delta=delta)
    else:
        raise TypeError(
            f"neighbourhood: no other δ can be put into {name}, which is neither a dataclass with a field delta nor "
            "has a method with_delta(delta); add one of these"
        )
    if isinstance(delta, Tensor) and delta_of(moved) is not delta:
        raise TypeError(
            f"neighbourhood: {name} was given a tensor as δ, but its delta is {shown(delta_of(moved))}; keep the "
            "tensor itself, in which a derivative may be taken"
        )
    return moved


def _has_field(value: Any, name: str) -> bool:
    """Whether the value is a dataclass that is made with this field."""
    return is_dataclass(value) and name in {f.name for f in fields(value) if f.init}


def largest_delta_of(neighbourhood: object) -> float:
    """The largest value that δ may have; infinity where none is declared."""
    return neighbourhood.largest_delta if isinstance(neighbourhood, HasLargestDelta) else inf


@dataclass(frozen=True)
class Uniform:
    """x' uniform in the ball ‖x' − x‖ ≤ δ.

    Args:
        delta: δ ≥ 0, the radius, in units of the inputs; a number or a 0-dimensional tensor to
            differentiate in.
        samples: Draws of x' to an x; default 1.
        norm: ``inf`` (default) for the cube of half-width δ, 2 for the Euclidean ball over all
            coordinates of an input.
        clip: ``(low, high)`` to which x' is clipped, such as (0, 1) for pixels; default none.
        sampling: How the samples of one input relate: "independent" (default); "antithetic", ±ε in
            pairs, an even number; or "sobol", shifted Sobol points, a power of two.

    Raises:
        ValueError: ``delta`` negative or not finite, ``samples`` < 1 or not what ``sampling``
            needs, another norm, or ``low`` ≥ ``high``.

    Examples:
        >>> x = torch.zeros(5, 3)
        >>> u = Uniform(0.1, samples=4)
        >>> u.perturb(x, u.draw(x, torch.Generator().manual_seed(0))).shape
        torch.Size([4, 5, 3])
    """

    delta: Scalar
    samples: int = 1
    norm: float | Literal[2] = inf
    clip: tuple[float, float] | None = None
    sampling: Sampling = "independent"

    def __post_init__(self) -> None:
        check_settings(self.delta, self.samples, self.clip, self.sampling)
        if number("norm", self.norm) not in (2, inf):
            raise ValueError(f"norm: got {self.norm!r}, must be inf or 2")

    @property
    def float32_reason(self) -> str:
        """See `DeclaresPrecision`."""
        return float32_reason(self.sampling)

    def draw(self, inputs: Tensor, generator: Generator) -> Draw:
        if self.norm == inf:
            return (uniforms(self.samples, inputs, generator, self.sampling) * 2 - 1,)
        direction = normals(self.samples, inputs, generator, self.sampling)
        lengths = direction.flatten(2).norm(dim=2)
        radii = self._radii(lengths, inputs[0].numel(), generator)
        scale = (radii / lengths).view(*lengths.shape, *[1] * (inputs.dim() - 1))
        return (direction * scale,)

    def perturb(self, inputs: Tensor, draw: Draw) -> Tensor:
        return _clip(inputs + self.delta * draw[0], self.clip)

    def caution(self, inputs: Tensor) -> str:
        """See `Cautious`."""
        return too_small(self.delta, inputs, type(self).__name__)

    def _radii(self, lengths: Tensor, dimension: int, generator: Generator) -> Tensor:
        """U^(1/n). The two of an antithetic pair have the same distance, on opposite sides."""
        if self.sampling == "antithetic":
            half = uniforms(self.samples // 2, lengths[0], generator, "independent")
            return torch.cat([half, half]) ** (1 / dimension)
        return uniforms(self.samples, lengths[0], generator, self.sampling) ** (1 / dimension)


@dataclass(frozen=True)
class Gaussian:
    """x' = x + δ ε with ε ~ N(0, I).

    Args:
        delta: δ ≥ 0, the standard deviation of each coordinate; a number or a 0-dimensional tensor
            to differentiate in.
        samples: Draws of x' to an x; default 1.
        clip: ``(low, high)`` to which x' is clipped; default none.
        sampling: How the samples of one input relate: "independent" (default); "antithetic", ±ε in
            pairs, an even number; or "sobol", shifted Sobol points, a power of two.

    Raises:
        ValueError: ``delta`` negative or not finite, ``samples`` < 1, or ``low`` ≥ ``high``.

    Examples:
        >>> Gaussian(0.3, samples=2, clip=(0.0, 1.0)).samples
        2
    """

    delta: Scalar
    samples: int = 1
    clip: tuple[float, float] | None = None
    sampling: Sampling = "independent"

    def __post_init__(self) -> None:
        check_settings(self.delta, self.samples, self.clip, self.sampling)

    @property
    def float32_reason(self) -> str:
        """See `DeclaresPrecision`."""
        return float32_reason(self.sampling)

    def draw(self, inputs: Tensor, generator: Generator) -> Draw:
        return (normals(self.samples, inputs, generator, self.sampling),)

    def perturb(self, inputs: Tensor, draw: Draw) -> Tensor:
        return _clip(inputs + self.delta * draw[0], self.clip)

    def caution(self, inputs: Tensor) -> str:
        """See `Cautious`."""
        return too_small(self.delta, inputs, type(self).__name__)


def check_settings(
    delta: Scalar, samples: int, bounds: tuple[float, float] | None, sampling: Sampling
) -> None:
    """Refuse settings that neighbourhoods have in common."""
    value = known(scalar("delta", delta))
    if value is not None and not 0 <= value < inf:
        raise ValueError(f"delta: got {value}, must be non-negative and finite")
    count("samples", samples)
    check_sampling(sampling, samples)
    if bounds is None:
        return
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"clip: got {shown(bounds)}, must be (low, high)")
    if not number("clip", bounds[0]) < number("clip", bounds[1]):
        raise ValueError(f"clip (low, high): got {bounds}, low must be less than high")


def _clip(inputs: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    return inputs if bounds is None else inputs.clamp(*bounds)


SMALL = 1 / 200
"""A δ of this part of the inputs' standard deviation moves no input to speak of."""
LARGE = 20.0
"""Standard deviations of inputs that nobody has scaled, such as bytes of 0 to 255."""


def too_small(delta: Scalar, inputs: Tensor, kind: str) -> str:
    """What is odd about a δ that is nothing beside inputs that were not scaled; empty if nothing is."""
    number, spread = known(delta), float(inputs.double().std()) if inputs.numel() > 1 else 0.0
    if not number or spread < LARGE or number > SMALL * spread:
        return ""
    low, high = float(inputs.min()), float(inputs.max())
    return (
        f"δ = {number:g} is nothing beside inputs from {low:g} to {high:g}; scale the inputs, or give a δ in their "
        f"units, such as neighbourhood={kind}({number * (high - low):.3g})"
    )
