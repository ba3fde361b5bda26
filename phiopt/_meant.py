"""What a user may have meant by an argument that is refused, as the end of the error's sentence."""

from difflib import get_close_matches
from math import inf
from numbers import Real

from torch import Tensor, nn
from torch.optim import Optimizer

EXAMPLES = {
    "neighbourhood": ("Uniform(0.1)", "Gaussian(0.1)", "Corruption(0.3)", "Replacement(0.1)"),
    "solver": ("TorchOpt()", "LBFGS()", "NewtonCG()"),
    "adjoint": ("Replay()", "Unroll()", "Implicit()"),
    "curvature": ("Frobenius()", "Spectral()"),
    "search": ("Mirror()", "Optuna()"),
}
"""What an argument of this name may be, by the public names of `phiopt`."""

_OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "adagrad", "adamax", "adadelta", "radam")
_CROSS_ENTROPY = ("ce", "cross_entropy", "crossentropy", "cross-entropy", "cross entropy", "xent")
_SQUARED = ("mse", "l2", "squared", "mean_squared_error")
_LOSSES = {
    **dict.fromkeys(_CROSS_ENTROPY, "did you mean loss=None, which is cross-entropy?"),
    **dict.fromkeys(
        _SQUARED,
        "did you mean lambda outputs, targets: (outputs - targets).square().flatten(1).mean(1)?",
    ),
}
_LOSS = (
    "it gives a loss for each example, as lambda outputs, targets: "
    "nn.functional.cross_entropy(outputs, targets, reduction='none')"
)


def meant(name: str, value: object) -> str:
    """A proposal for the argument ``name`` in place of ``value``, with the punctuation before it; empty if there is
    none.
    """
    text = _of_loss(value) if name == "loss" else _of_kinds(name, value)
    text = text or _of_objects(name, value)
    return f"; {text}" if text else ""


def _of_kinds(name: str, value: object) -> str:
    """A proposal from the examples of the argument, by a number, a word or a class."""
    examples = EXAMPLES.get(name, ())
    if name == "neighbourhood" and (delta := _number(value)) is not None:
        return f"did you mean Uniform({delta:g})?"
    if name == "solver" and (isinstance(value, Optimizer) or _word(value) in _OPTIMIZERS):
        kind = _word(value) if isinstance(value, str) else type(value).__name__.lower()
        kind = kind if kind in _OPTIMIZERS else "adam"
        return f"did you mean TorchOpt(torchopt.{kind}(lr=1e-3))?"
    by_word = {text.partition("(")[0].lower(): text for text in examples}
    close = get_close_matches(_word(value), by_word, n=1) if _word(value) else []
    if close:
        return f"did you mean {by_word[close[0]]}?"
    return f"such as {' or '.join(examples)}" if examples and not isinstance(value, type) else ""


def _of_loss(value: object) -> str:
    if isinstance(value, type) and issubclass(value, nn.Module):
        return f"did you mean {value.__name__}(reduction='none')?"
    return _LOSSES.get(_word(value), _LOSS)


def _of_objects(name: str, value: object) -> str:
    """A proposal from what the value is."""
    if name == "start":
        if isinstance(value, nn.Module):
            return "did you mean dict(module.named_parameters())?"
        if isinstance(getattr(value, "student", None), nn.Module):
            return "did you mean dict(solution.student.named_parameters())?"
    if name == "lift" and hasattr(value, "placements"):
        return "did you mean map=?"
    if name == "map" and hasattr(value, "index_maps"):
        return "did you mean lift=?"
    if isinstance(value, str) and name in ("model", "teacher", "student"):
        return "build the module and load its weights with load_state_dict()"
    if isinstance(value, dict) and name in ("model", "teacher", "student"):
        return "load these weights into a module with load_state_dict()"
    if isinstance(value, type) and name in ("model", "teacher", "student"):
        return f"did you mean {value.__name__}(...)?"
    return ""


def _number(value: object) -> float | None:
    """A number that may be a δ; None if the value is none."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.dtype.is_complex:
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    number = float(value)
    return number if 0 < number < inf else None


def _word(value: object) -> str:
    """A text or the name of a class, in small letters; empty if it is neither."""
    if isinstance(value, type):
        return value.__name__.lower()
    return value.lower() if isinstance(value, str) else ""
