"""Shared type names: parameters travel as plain dictionaries, functions are pure."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

Params: TypeAlias = dict[str, Tensor]
"""Parameters, and where stated buffers, by their qualified name in the module."""

Loss: TypeAlias = Callable[[Tensor, Any], Tensor]
"""``l(outputs, targets) -> per-example losses`` of shape ``(batch,)``. Targets are a tensor, or a dictionary of tensors
where the data have several."""

Lift: TypeAlias = Callable[[Tensor], Tensor]
"""ψ: a batch of the teacher's inputs to a batch of the student's."""

Model: TypeAlias = Callable[[Params, Any], Tensor]
"""f(ψ(x), w): the student's outputs on a batch of the teacher's inputs, as a pure function of w."""


@runtime_checkable
class Function(Protocol):
    """Anything that can be called."""

    def __call__(self, *args: Any) -> Any: ...


@runtime_checkable
class DeclaresPrecision(Protocol):
    """A part of a problem that may not suit models of few digits."""

    @property
    def float32_reason(self) -> str:
        """Why models must be float32 or wider, such as "Sobol points need float32"; empty if they need
        not be.
        """
        ...


def float32_reason_of(part: object) -> str:
    """What the part declares; empty for a part that declares nothing."""
    return part.float32_reason if isinstance(part, DeclaresPrecision) else ""
