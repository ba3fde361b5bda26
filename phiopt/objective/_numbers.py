"""What a user may give to the library's objects, checked: numbers, as floats or as tensors to
differentiate in, counts, names, and other objects.
"""

from math import inf
from numbers import Integral, Real

from torch import Tensor

from phiopt._transforms import batched

Scalar = float | Tensor


def scalar(name: str, value: object) -> Scalar:
    """``value`` as a float, or as the 0-dimensional floating tensor it is; anything else is refused
    by ``name``.
    """
    if isinstance(value, Tensor):
        if value.dim() or not value.is_floating_point():
            raise TypeError(
                f"{name}: got a tensor of shape {tuple(value.shape)} and dtype {value.dtype}, "
                "must be a number or a 0-dimensional floating tensor"
            )
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {value!r}, must be a number")
    return float(value)


def known(value: Scalar) -> float | None:
    """The number itself; None under ``torch.vmap``, where one tensor stands for many."""
    if isinstance(value, Tensor):
        if batched(value):
            return None
        return float(value.detach())
    return value


def count(name: str, value: object, least: int = 1) -> int:
    """``value``, NumPy's too, as an int if it is a whole number of at least ``least``; else an error by
    ``name``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: got {value!r}, must be a whole number")
    if value < least:
        raise ValueError(f"{name}: got {value}, must be at least {least}")
    return int(value)


def seed_of(value: object) -> int:
    """``value`` if PyTorch takes it for a seed; else an error."""
    seed = count("seed", value, least=0)
    if seed >= 2**64:
        raise ValueError(f"seed: got {seed}, must be below 2**64")
    return seed


def number(name: str, value: object) -> float:
    """``value`` as a float, off any graph; else an error by ``name``."""
    value = scalar(name, value)
    return float(value.detach()) if isinstance(value, Tensor) else value


def fraction(name: str, value: object) -> float:
    """``value`` if it is a number between 0 and 1, neither of them; else an error by ``name``."""
    found = number(name, value)
    if not 0 < found < 1:
        raise ValueError(f"{name}: got {found}, must lie between 0 and 1")
    return found


def positive(name: str, value: object) -> float:
    """``value`` if it is a positive, finite number; else an error by ``name``."""
    found = number(name, value)
    if not 0 < found < inf:
        raise ValueError(f"{name}: got {found}, must be positive and finite")
    return found


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """An error by ``name`` unless ``value`` is among the names ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, must be one of {', '.join(allowed)}")


def part(name: str, value: object, method: str) -> None:
    """A ``TypeError`` by ``name`` unless ``value`` is an object with this method; a class is none."""
    if isinstance(value, type):
        raise TypeError(f"{name}: got the class {value.__name__}, must be an instance of it")
    if not hasattr(value, method):
        raise TypeError(f"{name}: got {value!r}, which has no {method}()")
