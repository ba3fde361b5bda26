"""λ: the weights of the four terms, a point of the simplex (paper, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, fields
from itertools import islice

from torch import Tensor

from phiopt._checks import Scalar, known, scalar
from phiopt._shown import shown

TOLERANCE = 1e-6
"""How far the sum of four rounded numbers may be from 1."""


@dataclass(frozen=True)
class Lambdas:
    """The weights of the four terms of φ's objective, on the simplex:

        Σ λ_i = 1,  λ_i ≥ 0,  and in case of Anti-Distillation λ_2 > 0   (paper, section 4)

    Args:
        task: λ_1, of the loss on D1*.
        proximity: λ_2, of ‖u − w[u]‖².
        noise: λ_3, of the loss in the neighbourhood U_δ.
        curvature: λ_4, of ‖∂²L_f/∂w²‖².

    Each weight is a number, or a 0-dimensional tensor to differentiate in. A term is not computed if its weight is
    the number 0. It is always computed if its weight is a tensor. Numbers that sum to 1 within 1e-6 are rescaled to
    sum to 1 exactly. Tensors stay as they are, so that a derivative in λ_i is one in the given tensor.

    Raises:
        ValueError: A weight is negative or not finite, their sum is not 1, or ``proximity`` is 0.
        TypeError: A weight is not a number.

    Examples:
        >>> Lambdas(task=0.25, proximity=0.25, noise=0.25, curvature=0.25).noise
        0.25
    """

    task: Scalar
    proximity: Scalar
    noise: Scalar
    curvature: Scalar

    def __post_init__(self) -> None:
        values = {name: scalar(f"lambdas.{name}", value) for name, value in self.items()}
        numbers = {name: known(value) for name, value in values.items()}
        if any(number is None for number in numbers.values()):
            return  # under torch.vmap; the points were checked before
        checked = {name: number for name, number in numbers.items() if number is not None}
        _check_simplex(checked)
        differentiable = any(isinstance(value, Tensor) for value in values.values())
        total = 1.0 if differentiable else sum(checked.values())
        for name, value in values.items():
            if not isinstance(value, Tensor):
                object.__setattr__(self, name, value / total)

    @classmethod
    def of(cls, value: object) -> Lambdas:
        """``value`` as `Lambdas`. It may be `Lambdas`, four numbers, or a tensor of shape ``(4,)``. A derivative may be
        taken in a floating tensor.
        """
        if isinstance(value, Lambdas):
            return value
        if isinstance(value, Tensor):
            if value.shape != (4,):
                raise ValueError(
                    f"lambdas: got a tensor of shape {tuple(value.shape)}, must be (4,)"
                )
            numbers = value.unbind() if value.is_floating_point() else value.tolist()
            return cls(*numbers)
        if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
            raise TypeError(
                f"lambdas: got {shown(value)}, must be Lambdas (of a dictionary: Lambdas(**it)), four "
                "numbers or a tensor of four"
            )
        four = tuple(islice(value, 5))
        if len(four) != 4:
            count = len(value) if isinstance(value, Sized) else len(four)
            raise ValueError(f"lambdas: got {count} numbers, {shown(four)}, must be four")
        return cls(*four)

    def items(self) -> list[tuple[str, Scalar]]:
        """The four names and weights, in the paper's order."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    @property
    def active(self) -> list[str]:
        """Names of the terms that count: all but those whose weight is the number 0."""
        return weighed(dict(self.items()))


TRACE = 1e-9
"""A weight below which a term counts for nothing."""


def without_traces(lambdas: Lambdas) -> Lambdas:
    """λ with 0 in place of weights that are nothing, as a search leaves them."""
    weights = {name: known(value) or 0.0 for name, value in lambdas.items()}
    if not any(0 < value < TRACE for value in weights.values()):
        return lambdas
    return Lambdas(**{name: value if value >= TRACE else 0.0 for name, value in weights.items()})


def weighed(weights: Mapping[str, Scalar]) -> list[str]:
    """Names of the terms that count: all but those whose weight is the number 0."""
    return [name for name, value in weights.items() if isinstance(value, Tensor) or value != 0]


def _check_simplex(weights: dict[str, float]) -> None:
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"lambdas.{name}: got {weight}, must be non-negative and finite")
    total = sum(weights.values())
    if abs(total - 1) > TOLERANCE:
        raise ValueError(
            f"lambdas: got {tuple(weights.values())}, must sum to 1, but their sum is {total:.7g}"
        )
    if weights["proximity"] == 0:
        raise ValueError(
            "lambdas.proximity: got 0, must be positive: "
            "without λ2 nothing ties the student to the teacher's weights"
        )
