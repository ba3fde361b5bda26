"""Checks of what a user gives: numbers, counts, seeds, flags, words, objects.

Every error names the argument, its value and the rule, in one form: ``name: got value, must be rule``.
"""

from collections.abc import Collection
from difflib import get_close_matches
from math import inf
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor, nn

from phiopt._meant import meant
from phiopt._shown import shown
from phiopt._transforms import batched

Scalar = float | Tensor


def scalar(name: str, value: object) -> Scalar:
    """``value`` as a float. A 0-dimensional floating tensor stays as it is. Anything else is refused by ``name``."""
    if isinstance(value, Tensor):
        if value.dim() or not value.is_floating_point():
            raise TypeError(
                f"{name}: got {shown(value)}, must be a number or a 0-dimensional floating tensor"
            )
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {shown(value)}, must be a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name}: got {shown(value)}, must fit into a float") from error


def known(value: Scalar) -> float | None:
    """The number itself; None under ``torch.vmap``, where one tensor stands for many."""
    if isinstance(value, Tensor):
        if batched(value):
            return None
        return float(value.detach())
    return value


def count(name: str, value: object, least: int = 1) -> int:
    """``value`` as an int if it is a whole number of at least ``least``, NumPy's too; else an error by ``name``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: got {shown(value)}, must be a whole number")
    if value < least:
        raise ValueError(f"{name}: got {shown(value)}, must be at least {least}")
    return int(value)


def seed_of(value: object) -> int:
    """``value`` if it is a seed for every generator: 0 to 2⁶³ − 1; else an error."""
    seed = count("seed", value, least=0)
    if seed >= 2**63:
        raise ValueError(f"seed: got {shown(seed)}, must be below 2**63")
    return seed


def flag(name: str, value: object) -> bool:
    """``value`` if it is True or False, NumPy's too; else an error by ``name``. Python would take text such as "no" for
    True.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: got {shown(value)}, must be True or False")
    return bool(value)


def number(name: str, value: object) -> float:
    """``value`` as a float, off any graph; else an error by ``name``."""
    value = scalar(name, value)
    return float(value.detach()) if isinstance(value, Tensor) else value


def fraction(name: str, value: object) -> float:
    """``value`` if it is a number in the open interval (0, 1); else an error by ``name``."""
    checked = number(name, value)
    if not 0 < checked < 1:
        raise ValueError(f"{name}: got {checked}, must lie between 0 and 1")
    return checked


def positive(name: str, value: object) -> float:
    """``value`` if it is a positive, finite number; else an error by ``name``."""
    checked = number(name, value)
    if not 0 < checked < inf:
        raise ValueError(f"{name}: got {checked}, must be positive and finite")
    return checked


def within(name: str, value: object, low: float, high: float) -> float:
    """``value`` if it is a finite number from ``low`` to ``high``; else an error by ``name``."""
    checked = number(name, value)
    if not (low <= checked <= high and -inf < checked < inf):
        rule = f"lie in [{low:g}, {high:g}]"
        if high == inf:
            rule = "be finite" if low == -inf else f"be at least {low:g} and finite"
        raise ValueError(f"{name}: got {checked}, must {rule}")
    return checked


def one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """An error by ``name`` unless ``value`` is one of the words ``allowed``. The error proposes a similar word."""
    if isinstance(value, str) and value in allowed:
        return
    close = get_close_matches(value, allowed, n=1) if isinstance(value, str) else []
    meant = f"; did you mean {close[0]!r}?" if close else ""
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{name}: got {shown(value)}, must be one of {', '.join(allowed)}{meant}")


def part(name: str, value: object, kind: type) -> None:
    """A ``TypeError`` by ``name`` unless ``value`` is of this kind, which is a protocol or an abstract class. The
    error says what the value lacks, and what may have been meant. A class is refused.
    """
    if isinstance(value, type):
        raise TypeError(
            f"{name}: got {shown(value)}, must be an instance of it{meant(name, value)}"
        )
    if isinstance(value, kind):
        return
    members = _members(kind)
    lacking = [text for member, text in members.items() if not hasattr(value, member)]
    what = f"which has no {' and no '.join(lacking)}" if lacking else "which is none"
    if "__call__" in members:
        rule = "a callable"
    elif lacking:
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        rule = f"{article} {kind.__name__}, an object with {' and '.join(members.values())}"
    else:
        rule = f"a subclass of {kind.__name__}"
    raise TypeError(f"{name}: got {shown(value)}, {what}; must be {rule}{meant(name, value)}")


def _members(kind: type) -> dict[str, str]:
    """What a protocol, or an abstract class, asks for: names, and how an error writes them, methods first."""
    asked = sorted(getattr(kind, "__abstractmethods__", ())) or [
        name for name in vars(kind) if not name.startswith("_") or name == "__call__"
    ]
    texts = {name: f"{name}()" if callable(vars(kind)[name]) else name for name in asked}
    return dict(sorted(texts.items(), key=lambda item: not item[1].endswith("()")))


def instance(name: str, value: object, kind: type[Any] | tuple[type[Any], ...], rule: str) -> None:
    """A ``TypeError`` by ``name`` unless ``value`` is of this kind, which ``rule`` says in words."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: got {shown(value)}, must be {rule}{meant(name, value)}")


def two_models(teacher: object, student: object) -> None:
    """An error by name unless both are modules, and different modules."""
    for name, module in (("teacher", teacher), ("student", student)):
        instance(name, module, nn.Module, "an nn.Module")
    if teacher is student:
        raise ValueError(
            "student: got the teacher itself, must be another module; copy.deepcopy(teacher) gives one "
            "of the same size"
        )
