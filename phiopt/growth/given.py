"""Checks of the arguments that a user gives a map: tensors, shapes, models, ψ and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import Parameter, signature

import torch
from torch import Tensor, nn

from phiopt._files import differences
from phiopt._inputs import Inputs, Several
from phiopt._modules import state_of
from phiopt._shown import shown
from phiopt._types import Lift, Params

_MOST = 8
"""Largest number of differences that a message lists."""


def check_tensors(argument: str, tensors: Params) -> None:
    """Check that ``tensors`` is a dictionary of tensors.

    Raises:
        TypeError: It is none; the message names the argument.
    """
    if not isinstance(tensors, Mapping):
        raise TypeError(
            f"{argument}: got {shown(tensors)}, must be a dictionary of tensors by name"
        )
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{argument}[{name!r}]: got {shown(value)}, must be a Tensor")


def check_shape(argument: str, name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(
            f"{argument}[{name!r}] has shape {tuple(value.shape)}, the map has {shape}"
        )


def check_traceable(teacher: nn.Module, student: nn.Module, inputs: Inputs | None) -> None:
    """Check that both models can be traced: plain modules with parameters, whose forward passes take the inputs.

    Raises:
        TypeError, ValueError: A model cannot be traced; the message says which and why.
    """
    for role, module in (("teacher", teacher), ("student", student)):
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(f"{role} is a {type(module).__name__}, must be a plain torch.nn.Module")
        for name, part in module.named_modules():
            if isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel):
                path = f"{role}.{name}" if name else role
                raise TypeError(
                    f"{path} is a {type(part).__name__}, must be the module that it wraps: pass "
                    f"{path}.module, and wrap the result"
                )
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            if nn.parameter.is_lazy(value):
                raise ValueError(
                    f"{role}: {name} is not initialised yet, run a batch through the module first"
                )
        _check_inputs(role, module, inputs)
        if not any(True for _ in module.parameters()):
            raise ValueError(f"{role}={type(module).__name__} has no parameters")


def _check_inputs(role: str, module: nn.Module, inputs: Inputs | None) -> None:
    """Check that the forward pass takes these inputs, or one tensor, and that its other arguments have defaults."""
    several = inputs if isinstance(inputs, Several) else None
    forward = signature(module.forward)
    try:
        if several is None:
            forward.bind(inputs)
        else:
            forward.bind(*several.positional, **several.named)
    except TypeError as error:
        kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        taken = [p for p in forward.parameters.values() if p.kind in kinds]
        if several is None:  # the arguments that must be given say what is wrong
            taken = [p for p in taken if p.default is Parameter.empty] or taken
        names = ", ".join(p.name for p in taken)
        takes = f"the forward pass of {type(module).__name__} takes {names or 'nothing'}"
        if several is None:
            raise TypeError(
                f"{role}: {takes}; inputs is one tensor, must be a tuple or a mapping of them ({error})"
            ) from error
        raise TypeError(
            f"inputs: got {', '.join(several.entries)}, must be a Tensor or as many as are taken; {role}: {takes} "
            f"({error})"
        ) from error


def check_models(
    placed: Mapping[str, tuple[int, ...]],
    there: Mapping[str, tuple[int, ...]],
    teacher: nn.Module,
    student: nn.Module,
) -> None:
    """Check that the models have the tensors that a map was made for.

    Args:
        placed: Shapes of the teacher's tensors that the map places, by name.
        there: Shapes of all the student's tensors, by name.

    Raises:
        ValueError: They have others; the message says what differs.
    """
    small, large = (
        {name: tuple(value.shape) for name, value in state_of(module).items()}
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


def classes_of(classes: object) -> Tensor:
    """Student output of each teacher class, as whole numbers of shape ``(c1,)``.

    Raises:
        TypeError, ValueError: They are none; the message names the argument.
    """
    rule = "integers, the student's output of each teacher class"
    try:
        chosen = torch.as_tensor(classes, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"classes={shown(classes)} must be {rule}: {error}") from error
    if chosen.dtype.is_floating_point or chosen.dtype.is_complex or chosen.dtype == torch.bool:
        raise ValueError(f"classes={shown(classes)} must be {rule}; got {chosen.dtype}")
    if chosen.ndim != 1:
        raise ValueError(f"classes={shown(classes)} must be {rule}, along one axis")
    return chosen.to(torch.int64)


def check_beside_map(
    lift: Lift | None,
    classes: Sequence[int] | Tensor | None,
    of_map: tuple[Lift, Tensor],
) -> None:
    """Check that arguments beside a map do not contradict the map.

    Args:
        lift: ψ, if given.
        classes: The student's output of each teacher class, if given.
        of_map: The map's own ψ and classes.

    Raises:
        ValueError: An argument contradicts the map; the message has both values.
    """
    if lift is not None and lift is not of_map[0] and lift != of_map[0]:
        raise ValueError(
            f"lift={shown(lift)} contradicts map=, whose lift is {shown(of_map[0])}; pass one"
        )
    if classes is not None and classes_of(classes).tolist() != of_map[1].tolist():
        raise ValueError(
            f"classes={shown(classes)} contradict map=, whose classes are {of_map[1].tolist()}; pass one"
        )
