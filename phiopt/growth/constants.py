"""The constants of a forward pass: masks, ranges, tables and numbers that depend on no data and no parameter.

A trace on device ``meta`` has no values. What follows from constants alone is computed beside it, on the CPU. So
options of two models can be compared if they are tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phiopt.growth.catalogue import facts
from phiopt.growth.nested import leaves, mapped

LARGEST = 2**22
"""Largest number of coordinates of a constant that is computed."""


class Constants:
    """The constants of one trace, by the tensors that stand for them there.

    Args:
        meta: Whether the tensors of the trace have no storage. If they have, they hold the values.
    """

    def __init__(self, *, meta: bool) -> None:
        self._meta = meta
        self._values: dict[int, Tensor] = {}
        self._written: set[int] = set()  # storages of constants that data was written into

    def enter(self, x: Tensor, original: Tensor) -> None:
        """``x`` stands for ``original``, which the trace did not make."""
        if original.device.type != "meta" and original.numel() <= LARGEST:
            self._values[id(x)] = original.detach().clone()

    def value(self, x: Tensor) -> Tensor | None:
        """What ``x`` holds, or None where it is no constant."""
        return None if storage(x) in self._written else self._values.get(id(x))

    def compute(
        self, func: Any, name: str, args: Any, kwargs: Any, outputs: Sequence[Tensor]
    ) -> bool:
        """Follow one operation, and return whether it reads nothing but constants."""
        inputs = [x for x in leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not facts(name).creates and any(self.value(x) is None for x in inputs):
            written = {storage(x) for x in outputs}
            self._written |= {storage(x) for x in inputs if id(x) in self._values} & written
            return False
        large = not func.is_view and any(x.numel() > LARGEST for x in outputs)
        if large or torch.Tag.nondeterministic_seeded in func.tags:
            return True
        results: Sequence[Any] = outputs
        if self._meta:
            args, kwargs = mapped(self._real, (args, kwargs))
            if kwargs.get("device") is not None:
                kwargs["device"] = torch.device("cpu")
            results = [x for x in leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
        self._values |= {id(x): y for x, y in zip(outputs, results, strict=True)}
        return True

    def _real(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        known = self.value(x)
        if known is None:  # only its shape is read
            return torch.zeros((), dtype=x.dtype, device="cpu").expand(x.shape)
        return known


def with_numbers(
    func: torch._ops.OpOverload, name: str, arguments: dict[str, Any], constants: dict[Any, Tensor]
) -> tuple[str, dict[str, Any]]:
    """Replace constants of one coordinate by numbers: ``x * tensor(2)`` and ``tensor(2) * x`` become ``x * 2``.

    This is done for operations that act on each coordinate.

    Args:
        constants: The values of those arguments that are constants.

    Returns:
        The operation's name and its arguments.
    """
    known = facts(name)
    if not (known.masks or acts_on_each_coordinate(func, name)):
        return name, arguments
    rank = max(len(x.shape) for x in arguments.values() if hasattr(x, "shape"))
    numbers = {
        k: value.item()
        for k, x in arguments.items()
        if k not in known.masks
        and (value := _of(constants, x)) is not None
        and value.numel() == 1
        and value.ndim <= rank
    }
    out = arguments | numbers
    if "self" not in numbers or "other" in numbers or known.reverse is None:
        return name, out
    if known.reverse == name and out.get("alpha", 1) != 1:
        return name, out
    return known.reverse, out | {"self": out["other"], "other": out["self"]}


def _of(constants: dict[Any, Tensor], x: Any) -> Tensor | None:
    return constants.get(x) if hasattr(x, "shape") else None


def acts_on_each_coordinate(operator: torch._ops.OpOverload, name: str) -> bool:
    """Whether PyTorch tags the operation as pointwise. In-place forms often lack the tag, so their twins are asked."""
    twin = getattr(torch.ops.aten, name, operator.overloadpacket)
    same = getattr(twin, operator._overloadname, operator)
    return any(torch.Tag.pointwise in x.tags for x in (operator, same))


def storage(x: Tensor) -> int:
    """The identity of the memory of ``x``. Views share it."""
    return x.untyped_storage()._cdata
