"""The points that a search for λ, δ and θ may visit, and its start."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from math import inf, log
from typing import Any

import torch
from torch import Generator, Tensor

from phiopt._checks import fraction, number, positive
from phiopt._shown import shown
from phiopt._types import Params
from phiopt.objective import Lambdas, Neighbourhood
from phiopt.objective.neighbourhood import delta_of, largest_delta_of

LEARNABLE = ("lambdas", "delta", "theta")

SPREAD = 3.0
"""Random points have δ and θ within this factor of their starts, and not above their largest values."""

LONGEST = 3.0
"""The largest exponent of a step, in units of the rate."""


@dataclass(frozen=True)
class Space:
    """The points that a search may visit.

    Args:
        start: ``lambdas`` of shape ``(4,)``, and ``delta`` and ``theta`` if they are learned; float64 on the
            CPU. A weight of 0 stays 0: the search stays on that face of the simplex.
        floor: Least λ2. The update itself keeps the other weights positive.
        largest: The largest values of δ and θ, by name, where there are such.
    """

    start: Params
    floor: float
    largest: dict[str, float] = field(default_factory=dict)

    @property
    def terms(self) -> list[int]:
        """Indices of the terms whose weights are learned."""
        return [i for i, weight in enumerate(self.start["lambdas"].tolist()) if weight]

    def moved(self, point: Params, gradient: Params, rate: float) -> Params | None:
        """The exponentiated-gradient step (Kivinen & Warmuth 1997) in p of λ = floor·e2 +
        (1 − floor) p, and the gradient step in log δ and log θ:

            p_i ∝ p_i exp(−η (1 − floor) ∂E/∂λ_i),   δ ← δ exp(−η δ ∂E/∂δ)

        η makes the largest exponent equal to ``rate``. For this comparison the exponents of p are multiplied by √p
        (their length in the simplex's own metric). They are cut off at three times the rate. None where E is flat.
        """
        weights = self.free(point["lambdas"])
        along = gradient["lambdas"] * (1 - self.floor)
        along = along - (weights * along).sum()  # what the normalisation would take away
        logs = {name: gradient[name] * point[name] for name in point if name != "lambdas"}
        size = max(float(v.abs().max()) for v in (weights.sqrt() * along, *logs.values()))
        if not 0 < size < inf:
            return None
        others = {
            name: (point[name] * torch.exp(-rate / size * v)).clamp_max(self.largest.get(name, inf))
            for name, v in logs.items()
        }
        # Without √p a tiny weight with a large derivative would keep the other weights from moving.
        change = (rate / size * along).clamp(-LONGEST * rate, LONGEST * rate)
        return {"lambdas": self.bound(torch.log(weights) - change), **others}

    def free(self, lambdas: Tensor) -> Tensor:
        """p of λ."""
        return (lambdas - self.floor * _proximity()) / (1 - self.floor)

    def bound(self, logits: Tensor) -> Tensor:
        """λ of log p, which need not be normalised."""
        tiny = torch.finfo(logits.dtype).eps  # 0 would stay 0
        weights = torch.softmax(logits, 0)
        weights[self.terms] = weights[self.terms].clamp_min(tiny)
        return self.floor * _proximity() + (1 - self.floor) * weights / weights.sum()

    def at(self, unit: dict[str, float]) -> Params:
        """The point with these coordinates in (0, 1). Uniform coordinates give λ uniform on the simplex or its
        face, and δ and θ log-uniform around their starts, within their bounds.
        """
        exponentials = torch.zeros(4, dtype=torch.float64, device="cpu")
        for i in self.terms:
            exponentials[i] = -log(unit[f"u{i}"])
        point = {"lambdas": self.bound(exponentials.log())}
        for name in self.start:
            if name != "lambdas":
                low, high = self.start[name] / SPREAD, self.start[name] * SPREAD
                high = high.clamp_max(self.largest.get(name, inf))
                point[name] = low * (high / low) ** unit[name]
        return point

    @property
    def coordinates(self) -> list[str]:
        return [*(f"u{i}" for i in self.terms), *(n for n in self.start if n != "lambdas")]

    def without(self, term: int) -> Params:
        """The start, with the weight of one term at 0 or at the floor."""
        weights = self.free(self.start["lambdas"]).clone()
        weights[term] = 0
        return {**self.start, "lambdas": self.bound(weights.log())}

    def random(self, generator: Generator) -> Params:
        values = torch.rand(
            len(self.coordinates), generator=generator, dtype=torch.float64, device="cpu"
        )
        values = values.clamp(1e-6, 1 - 1e-6)
        return self.at(dict(zip(self.coordinates, values.tolist(), strict=True)))


def space_from(
    lambdas: Any,
    parameters: Collection[str],
    neighbourhood: Neighbourhood,
    start: Any,
    theta: float,
    floor: float,
) -> Space:
    """The checked start of the search."""
    floor, theta = fraction("floor", floor), positive("theta", theta)
    iterable = isinstance(parameters, Iterable) and not isinstance(parameters, str)
    if not iterable or not {"lambdas"} <= set(parameters) <= set(LEARNABLE):
        raise ValueError(
            f"parameters: got {shown(parameters)}, must be names: 'lambdas' and any of 'delta', 'theta'"
        )
    weights = _point([number(f"lambdas.{n}", w) for n, w in Lambdas.of(lambdas).items()])
    if (weights > 0).sum() < 2 or weights[1] <= floor:
        raise ValueError(
            f"lambdas: got {tuple(weights.tolist())}, at a vertex or with λ2 at most floor={floor}: "
            "multiplicative updates never leave there; start with two weights or more, λ2 above floor"
        )
    point = {"lambdas": weights}
    if "delta" in parameters:
        delta = number("neighbourhood.delta", delta_of(neighbourhood) or 0.0)
        if not delta > 0:
            raise ValueError(f"neighbourhood: δ is {delta}, must be positive to be learned")
        point["delta"] = _point(delta)
    if "theta" in parameters:
        if start not in ("uniform", "uniform-symmetric"):
            raise ValueError(
                f"start: got {start!r}, must be 'uniform' or 'uniform-symmetric' to learn theta"
            )
        point["theta"] = _point(theta)
    return Space(point, floor, {"delta": largest_delta_of(neighbourhood)})


def _proximity() -> Tensor:
    """e2."""
    return torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64, device="cpu")


def _point(value: float | list[float]) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device="cpu")
