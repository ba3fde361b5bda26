"""What a user gives a map by hand, checked by name: tensors, their shapes, and models."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from phiopt._files import differences
from phiopt._types import Params
from phiopt.growth.trace import tensors_of

_MOST = 8
"""Most differences that a message lists."""


def check_tensors(argument: str, tensors: Params) -> None:
    """``tensors`` is a dictionary of tensors.

    Raises:
        TypeError: It is not; the message names the argument.
    """
    if not isinstance(tensors, Mapping):
        raise TypeError(f"{argument}={tensors!r} must be a dictionary of tensors by name")
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{argument}[{name!r}]={value!r} must be a Tensor")


def check_shape(argument: str, name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(
            f"{argument}[{name!r}] has shape {tuple(value.shape)}, the map has {shape}"
        )


def check_models(
    placed: Mapping[str, tuple[int, ...]],
    there: Mapping[str, tuple[int, ...]],
    teacher: nn.Module,
    student: nn.Module,
) -> None:
    """The models have the tensors that a map was made for.

    Args:
        placed: Shape of each of the teacher's tensors that the map places.
        there: Shape of each of the student's.

    Raises:
        ValueError: They do not; the message says what differs.
    """
    small, large = (
        {name: tuple(value.shape) for name, value in tensors_of(module).items()}
        for module in (teacher, student)
    )
    lines = [
        *differences("teacher", placed, small),
        *differences("student", there, large),
        *(f"student has {name} too" for name in large if name not in there),
    ]
    if lines:
        more = f"; and {len(lines) - _MOST} more" if len(lines) > _MOST else ""
        raise ValueError(f"map= belongs to other models: {'; '.join(lines[:_MOST])}{more}")
