"""Terms beside the paper's four. Their weights are no part of the simplex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import inf

from torch import Tensor

from phiopt._checks import Scalar, known, scalar
from phiopt._shown import shown
from phiopt._types import Params
from phiopt.objective.lambdas import Lambdas
from phiopt.objective.term import Term


def check_extra(extra: object) -> list[tuple[Scalar, Term]]:
    """``extra`` as pairs of a weight and a term.

    Raises:
        TypeError: It is no sequence of such pairs.
        ValueError: A weight is negative or not finite, or two terms have one name, or two tensors have.
    """
    rule = "must be pairs (weight, Term)"
    if isinstance(extra, str | Mapping) or not isinstance(extra, Sequence):
        raise TypeError(f"extra: got {shown(extra)}, {rule}")
    names = [field.name for field in fields(Lambdas)]
    pairs: list[tuple[Scalar, Term]] = []
    tensors: Params = {}
    for pair in extra:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[1], Term):
            raise TypeError(f"extra: got {shown(pair)}, {rule}")
        weight, term = pair
        if term.name in names:
            raise ValueError(f"extra: two terms are called {term.name!r}, each needs its own name")
        names.append(term.name)
        for name, value in term.tensors().items():
            if tensors.setdefault(name, value) is not value:
                raise ValueError(
                    f"extra: {term.name} and another term name different tensors {name!r}; begin the names with the "
                    "term's own"
                )
        pairs.append((_weight(term.name, weight), term))
    return pairs


def check_weights(
    weights: Mapping[str, object], posed: Mapping[str, Scalar], left_out: Mapping[str, str]
) -> dict[str, Scalar]:
    """Weights, by name, of extra terms that a problem was posed with; else an error. A term that was left out,
    for the reason given, takes no weight.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"extra: got {shown(weights)}, must be weights by the names of extra terms")
    for name in weights:
        if name not in posed:
            known_names = ", ".join(posed) or "none"
            raise ValueError(
                f"extra: got a weight for {name!r}, must be of a term that the problem was posed "
                f"with: {known_names}"
            )
    checked = {name: _weight(name, weight) for name, weight in weights.items()}
    for name, weight in checked.items():
        if name in left_out and (isinstance(weight, Tensor) or weight):
            raise ValueError(
                f"extra.{name}: got {weight}, must be the number 0: the problem was posed without the term, "
                f"because: {left_out[name]}"
            )
    return checked


def _weight(name: str, value: object) -> Scalar:
    weight = scalar(f"extra.{name}", value)
    number = known(weight)
    if number is not None and not 0 <= number < inf:
        raise ValueError(f"extra.{name}: got {number}, must be non-negative and finite")
    return weight
