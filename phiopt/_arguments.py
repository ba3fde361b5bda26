"""Checks of the arguments of `pose` and of a solve. An error names the argument, its value and the rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from phiopt._checks import count, flag, known, one_of, part, seed_of, two_models
from phiopt._meant import meant
from phiopt._modules import state_of
from phiopt._shown import shown
from phiopt._transforms import wrapped
from phiopt._types import Params, float32_reason_of
from phiopt.bilevel import Adjoint
from phiopt.data import Source, check_source
from phiopt.growth.registry import FILLS
from phiopt.objective import Lambdas
from phiopt.objective.paper import PAPER_TERMS
from phiopt.solve import LEVELS, Solver

SCALES = ("relative", "paper")
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
"""Dtypes of models. In float16 Adam's ε is 0, and third derivatives overflow."""


def check_modules(teacher: nn.Module, student: nn.Module) -> Tensor:
    """Refuse models that cannot be used. Returns a parameter, which has the device and dtype of both."""
    two_models(teacher, student)
    for name, module in (("teacher", teacher), ("student", student)):
        for key, value in (*module.named_parameters(), *module.named_buffers()):
            if nn.parameter.is_lazy(value):
                raise ValueError(
                    f"{name}: {key} is not initialised yet, run a batch through the module first"
                )
            if wrapped(value):
                raise ValueError(
                    f"{name}: {key} is a tensor of torch.func, must be a plain tensor; torch.func can differentiate "
                    "in lambdas, δ and start, and only torch.autograd in a module's own parameters"
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


def check_parts(parts: Mapping[str, tuple[object, type]]) -> None:
    """Refuse objects, by name, that are not of their kind. None is left out."""
    for name, (value, kind) in parts.items():
        if value is not None:
            part(name, value, kind)


def check_options(
    lambdas: Lambdas,
    data: Source | None,
    scale: str,
    seed: int,
    micro_batch: int | None,
    process_group: object,
    parts: Mapping[str, tuple[object, type]],
    flags: Mapping[str, object],
) -> None:
    """Refuse arguments of `pose`. ``parts`` are plug-ins by name, each with its protocol."""
    check_parts(parts)
    for name, value in flags.items():
        flag(name, value)
    one_of("scale", scale, SCALES)
    seed_of(seed)
    if micro_batch is not None:
        count("micro_batch", micro_batch)
    if process_group is not None and not isinstance(process_group, ProcessGroup):
        raise TypeError(
            f"process_group: got {process_group!r}, must be a group of torch.distributed that this "
            "process is in, such as torch.distributed.group.WORLD"
        )
    on_data = [t.name for t in PAPER_TERMS if t.over != "parameters" and t.name in lambdas.active]
    if data is not None:
        check_source("data", data)
    if data is None and on_data:
        raise ValueError(
            f"data: None, but the weight of {', '.join(on_data)} is not 0; these terms need D1"
        )


def check_solve(
    solver: object,
    adjoint: object,
    certificate: object,
    seed: object,
    restarts: object,
    flags: Mapping[str, object],
) -> None:
    """Refuse arguments of a solve."""
    check_parts({"solver": (solver, Solver), "adjoint": (adjoint, Adjoint)})
    if certificate is not None:
        one_of("certificate", certificate, LEVELS)
    for name, value in flags.items():
        flag(name, value)
    seed_of(seed)
    count("restarts", restarts, least=0)


def check_posed(weights: Lambdas, posed: Lambdas) -> None:
    """Refuse weight for terms that had none when the problem was posed."""
    for name in [name for name in weights.active if name not in posed.active]:
        raise ValueError(
            f"lambdas.{name}: got {dict(weights.items())[name]}, must be the number 0: the problem was posed without "
            f"a weight for {name}, and what the term needs was not checked. Pose the problem with weights for all "
            "terms that are to have one"
        )


def without_data(lambdas: Lambdas) -> Lambdas:
    """λ with the number 0 in place of constant tensors that are 0. Terms with such weights need no data."""
    constant = {n: v for n, v in lambdas.items() if isinstance(v, Tensor) and not v.requires_grad}
    return replace(lambdas, **{n: 0.0 for n, v in constant.items() if known(v) == 0})


def check_precision(dtype: torch.dtype, parts: Mapping[str, object]) -> None:
    """Refuse parts, by name, that need more digits than bfloat16 has."""
    for name, value in parts.items() if dtype == torch.bfloat16 else ():
        if reason := float32_reason_of(value):
            raise TypeError(f"{name}: {reason} models, got bfloat16")


def check_start(start: str | Params | None, student: nn.Module) -> None:
    """Refuse a start that is neither a fill's name nor the student's parameters by name, perhaps with buffers, in the
    student's shapes and dtypes.
    """
    if start is None:
        return
    if isinstance(start, str):
        one_of("start", start, sorted(FILLS))
        return
    if not isinstance(start, dict):
        raise TypeError(
            f"start: got {shown(start)}, must be a fill's name or Params{meant('start', start)}"
        )
    for name, value in start.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"start: {name} is {shown(value)}, must be a Tensor")
    missing = [name for name, _ in student.named_parameters() if name not in start]
    if missing:
        raise ValueError(f"start: lacks {', '.join(missing)}; must hold every parameter")
    tensors = state_of(student)
    for name, value in start.items():
        if name not in tensors:
            raise ValueError(f"start: {name} is no parameter or buffer of the student")
        like = tensors[name]
        if (value.shape, value.dtype, value.device) != (like.shape, like.dtype, like.device):
            raise ValueError(
                f"start: {name} is {tuple(value.shape)}, {value.dtype} on {value.device}, must be "
                f"{tuple(like.shape)}, {like.dtype} on {like.device}"
            )
        if not value.isfinite().all():
            raise ValueError(f"start: {name} holds NaN or infinity, must be finite")
