"""The text of a value for an error: short, on one line, and by shape and dtype where it holds many numbers."""

from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, MethodType

import numpy as np
from torch import Tensor, nn

LONGEST = 100
"""Characters of a value's text, and of the text of all parts of a tuple, list or dictionary."""


def shown(value: object) -> str:
    """The text of a value for an error. Tensors and arrays are shown by their shape and dtype, functions by their
    names, and tuples, lists and dictionaries by their parts. Other values are shown by their own text, if it is one
    short line, else by their class.
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Tensor) and value.dim():
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, FunctionType | BuiltinFunctionType | MethodType):
        return f"the {_kind(value)} {value.__name__}"
    if isinstance(value, tuple | list | Mapping):
        return _of_parts(value)
    text = _text(value)
    if isinstance(value, str | bytes):
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    if len(text) > LONGEST or "\n" in text or " at 0x" in text:
        what = "a module" if isinstance(value, nn.Module) else "an object of class"
        return f"{what} {_kind(value)}"
    return text


def _kind(value: object) -> str:
    return type(value).__name__


def _text(value: object) -> str:
    """Its own text, which some classes cannot give."""
    try:
        return repr(value)
    except Exception:
        return f"an object of class {_kind(value)}"


def _of_parts(value: tuple[object, ...] | list[object] | Mapping[object, object]) -> str:
    """The parts of a tuple, list or dictionary, as many as there is room for."""
    if isinstance(value, Mapping):
        left, right = "{}"
        every = (f"{shown(key)}: {shown(part)}" for key, part in value.items())
    else:
        left, right = "[]" if isinstance(value, list) else "()"
        every = (shown(part) for part in value)
    texts: list[str] = []
    for text in every:
        texts.append(text)
        if sum(map(len, texts)) > LONGEST:
            break
    if len(texts) < len(value):
        texts.append(f"... {len(value) - len(texts)} more")
    end = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return f"{left}{', '.join(texts)}{end}{right}"
