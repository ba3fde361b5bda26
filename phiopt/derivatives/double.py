"""Run a model in float64, even if its code asks for less precision.

Differences of a float32 loss have two digits, those of a float64 copy have eight. But a user's code may make constants,
call ``.float()`` or close over float32 tensors. `Widened` widens such numbers where they are passed to PyTorch's
functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from phiopt._modules import copied
from phiopt.derivatives.mode import FunctionMode

WIDER = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}

_CASTS = frozenset({Tensor.float, Tensor.half, Tensor.bfloat16})

Function = TypeVar("Function", bound=Callable[..., Any])


class Widened(FunctionMode):
    """Inside this context PyTorch functions get float64 in place of floating tensors and dtypes of fewer digits. A
    tensor that a function writes to keeps its dtype.

    PyTorch gives no derivative to the row ``padding_idx`` of an embedding. Inside this context the row has the
    derivative of the loss as a function of the whole table.
    """

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in _CASTS:
            func = Tensor.double
        if func is F.embedding:
            return _embedding(*args, **kwargs)
        name = getattr(func, "__name__", "")
        setting = name in ("__setitem__", "__set__", "__delete__")
        writing = setting or "out" in kwargs or (name.endswith("_") and not name.endswith("__"))
        target, rest = (args[:1], args[1:]) if writing else ((), args)
        result = func(*target, *tree_map(_widened, rest), **tree_map(_widened, kwargs))
        return result if writing else tree_map(_widened, result)


def _embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    return F.embedding(input, _widened(weight), None, *args, **kwargs)


def _widened(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return WIDER.get(value, value)
    if isinstance(value, Tensor) and value.dtype in WIDER:
        return value.to(WIDER[value.dtype])
    return value


def copied_to(part: Function, dtype: torch.dtype) -> Function:
    """A copy of a module in ``dtype`` and in evaluation mode. Any other function is returned as it is."""
    return copied(part).eval().to(dtype) if isinstance(part, nn.Module) else part
