"""What `initialize` asks of its arguments: an error names the argument, its value and the rule."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from phiopt._transforms import wrapped
from phiopt._types import Params
from phiopt.data import Source
from phiopt.objective import Lambdas
from phiopt.objective._numbers import count, part

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
"""Of the models: in float16 Adam's ε is 0, and third derivatives overflow."""


def check_modules(teacher: nn.Module, student: nn.Module) -> Tensor:
    """A parameter that stands for the device and dtype of both."""
    for name, module in (("teacher", teacher), ("student", student)):
        if not isinstance(module, nn.Module):
            raise TypeError(f"{name}: got {type(module).__name__}, must be an nn.Module")
        for key, value in (*module.named_parameters(), *module.named_buffers()):
            if nn.parameter.is_lazy(value):
                raise ValueError(
                    f"{name}: {key} is not initialised yet, run a batch through the module first"
                )
            if wrapped(value):
                raise ValueError(
                    f"{name}: {key} is a tensor of torch.func, must be a plain one: in a module's "
                    "own parameters torch.autograd differentiates, torch.func only in lambdas, δ and "
                    "start"
                )
            if value.is_meta:
                raise ValueError(f"{name}: {key} is on meta, must hold numbers")
    if not any(p.requires_grad for p in student.parameters()):
        raise ValueError("student: none of its parameters requires grad, at least one must")
    like = next(student.parameters())
    for name, module in (("teacher", teacher), ("student", student)):
        for key, value in module.named_parameters():
            if value.dtype not in DTYPES:
                raise ValueError(
                    f"{name}: {key} is {value.dtype}, must be float32, float64 or bfloat16"
                )
            if (value.device, value.dtype) != (like.device, like.dtype):
                raise ValueError(
                    f"{name}: {key} is {value.dtype} on {value.device}, the student's first "
                    f"parameter is {like.dtype} on {like.device}; all must agree"
                )
            if value.is_inference():
                raise ValueError(
                    f"{name}: {key} was made under torch.inference_mode(), must be made outside it"
                )
            if not value.isfinite().all():
                raise ValueError(f"{name}: {key} holds NaN or infinity, must be finite")
    return like


def check_options(
    lambdas: Lambdas,
    data: Source | None,
    scale: str,
    seed: int,
    restarts: int,
    parts: Mapping[str, tuple[object, str]],
) -> None:
    """``parts`` are pluggable objects by name, each with the attribute that makes it one."""
    for name, (value, attribute) in parts.items():
        if value is not None:
            part(name, value, attribute)
    if scale not in ("relative", "paper"):
        raise ValueError(f"scale: got {scale!r}, must be 'relative' or 'paper'")
    count("seed", seed, least=0)
    count("restarts", restarts, least=0)
    needy = [name for name in lambdas.active if name != "proximity"]
    if data is None and needy:
        raise ValueError(
            f"data: None, but the weight of {', '.join(needy)} is not 0; these terms need D1"
        )


def check_start(start: Params, student: nn.Module) -> None:
    """The student's parameters by name, and buffers if any, each as the student has it."""
    if not isinstance(start, dict):
        raise TypeError(f"start: got {type(start).__name__}, must be a fill's name or Params")
    missing = [name for name, _ in student.named_parameters() if name not in start]
    if missing:
        raise ValueError(f"start: lacks {', '.join(missing)}; must hold every parameter")
    held = {**dict(student.named_parameters()), **dict(student.named_buffers())}
    for name, value in start.items():
        if name not in held:
            raise ValueError(f"start: {name} is no parameter or buffer of the student")
        like = held[name]
        if (value.shape, value.dtype, value.device) != (like.shape, like.dtype, like.device):
            raise ValueError(
                f"start: {name} is {tuple(value.shape)}, {value.dtype} on {value.device}, must be "
                f"{tuple(like.shape)}, {like.dtype} on {like.device}"
            )
        if not value.isfinite().all():
            raise ValueError(f"start: {name} holds NaN or infinity, must be finite")
