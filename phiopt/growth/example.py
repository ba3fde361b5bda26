"""Example inputs for the trace: of the given batch's shape, or of a shape that the module accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from phiopt._inputs import Inputs, dtypes_of, main_of, shapes_of, with_main
from phiopt.growth.graph import Trace
from phiopt.growth.trace import trace

_SIZES = (32, 28, 224, 64, 96, 16, 8, 299, 384, *range(1, 257))
_BATCH = 2

REFUSALS = (
    RuntimeError,
    ValueError,
    TypeError,
    AssertionError,
    LookupError,
    AttributeError,
    ArithmeticError,
)
"""What a forward pass raises at an input that does not fit: PyTorch's errors, and those of a module's own checks. Other
errors, such as an ``OSError`` or a ``MemoryError``, say nothing about the input. They are not caught.
"""

T = TypeVar("T")


class UnsteadyError(Exception):
    """A call of the user's code raised an error once, and none when it was repeated. So the error, which is the cause
    of this one, says nothing about the input.
    """


def steady(name: str, call: Callable[[], T]) -> T:
    """The result of a call of the user's code that may raise one of `REFUSALS`.

    Raises:
        UnsteadyError: The error did not come again. It is no refusal, and is not caught as one.
    """
    try:
        return call()
    except REFUSALS as error:
        refusal = error
    try:
        call()
    except REFUSALS:
        raise refusal from None
    raise UnsteadyError(
        f"{name}: raised {type(refusal).__name__} ({refusal}) at one call and not at the next with the same input; "
        "mend what makes it fail now and then"
    ) from refusal


def recorded(module: nn.Module, example: Inputs, role: str) -> Trace:
    """The trace of ``module`` on ``example``; on real values if the forward pass needs more than shapes."""
    try:
        return trace(module, example)
    except REFUSALS:
        if main_of(example).device.type == "meta":
            raise
        try:
            return trace(module, example, values=True)
        except REFUSALS as error:
            raise ValueError(
                f"the {role}'s forward pass fails on a {dtypes_of(example)} input of shape {shapes_of(example)}: "
                f"{error}"
            ) from error


def accepted(module: nn.Module, like: Inputs | None, role: str) -> tuple[Tensor, Trace]:
    """An input that ``module`` accepts, with its trace: of ``like``'s shape, of a shape near it, or of a guessed one.
    Of several inputs it is the main one, and the others are those of ``like``.

    Raises:
        ValueError: The module accepts no shape that was tried; ``inputs=`` settles it.

    Errors of the forward pass that are none of `REFUSALS` are not caught.
    """
    refusal: Exception | None = None
    main = None if like is None else main_of(like)
    for example in _candidates(module, main):
        for values in (False, True) if example is main else (False,):
            try:
                inputs = example if like is None else with_main(like, example)
                return example, trace(module, inputs, values=values)
            except REFUSALS as error:
                refusal = error if example is main else refusal
    near = "" if like is None else f" near the teacher's {shapes_of(like)}"
    why = "" if refusal is None else f"; on that shape its forward pass fails: {refusal}"
    raise ValueError(
        f"no input shape{near} that the {role} accepts could be found; pass inputs=, a batch, or lift={why}"
    ) from refusal


def _candidates(module: nn.Module, like: Tensor | None) -> Iterator[Tensor]:
    first = next((m for m in module.modules() if _reads(m)), None)
    if like is not None:
        yield like
    if isinstance(first, nn.Embedding) or (like is not None and not like.is_floating_point()):
        yield torch.zeros(_BATCH, 5, dtype=torch.long, device="cpu")
        yield torch.zeros(_BATCH, dtype=torch.long, device="cpu")
        return
    width = None if first is None else _width(first)
    dtype = _dtype(module) if like is None else like.dtype
    for shape in _guesses(first, width) if like is None else _near(like, width):
        yield torch.zeros(shape, dtype=dtype, device="cpu")


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def _near(like: Tensor, width: int | None) -> Iterator[tuple[int, ...]]:
    """Shapes of the rank of ``like``, its own sizes first."""
    batch, *rest = like.shape
    if len(rest) == 1 and width is not None:
        yield batch, width
    if len(rest) < 2:
        return
    for size in (rest[-1], *_SIZES):
        for channels in sorted({rest[0], width or rest[0]}):
            yield batch, channels, *[size] * (len(rest) - 1)
    if width is not None and len(rest) == 3:
        yield from _images(batch, width)


def _guesses(first: nn.Module | None, width: int | None) -> Iterator[tuple[int, ...]]:
    """Shapes that a network whose first layer reads ``width`` features or channels may take."""
    if width is None:
        return
    if isinstance(first, nn.RNNBase | nn.MultiheadAttention):
        yield _BATCH, 5, width
        yield _BATCH, 1, width, width
    weight = getattr(first, "weight", None)
    if isinstance(weight, Tensor) and hasattr(first, "in_channels"):
        for size in _SIZES:
            yield _BATCH, width, *[size] * (weight.ndim - 2)
    yield _BATCH, width
    yield _BATCH, 5, width
    yield from _images(_BATCH, width)


def _images(batch: int, pixels: int) -> Iterator[tuple[int, ...]]:
    for channels in (1, 3):
        side = round((pixels / channels) ** 0.5)
        if channels * side * side == pixels:
            yield batch, channels, side, side


def _reads(module: nn.Module) -> bool:
    own = any(True for _ in module.parameters(recurse=False))
    return own and (_width(module) is not None or isinstance(module, nn.Embedding))


def _width(module: nn.Module) -> int | None:
    """The features or channels that a layer reads. The ``embed_dim`` of a whole vision transformer is none of them."""
    names = ["in_features", "in_channels", "input_size"]
    names += ["embed_dim"] * isinstance(module, nn.MultiheadAttention)
    for name in names:
        if isinstance(getattr(module, name, None), int):
            return int(getattr(module, name))
    return None
