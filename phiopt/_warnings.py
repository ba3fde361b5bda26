"""Warnings of phiopt: one category, at the line of the user's own code."""

import sys
import warnings
from types import FrameType

PLUMBING = ("contextlib", "functools", "torch", "torchopt", "phiopt")
"""Packages whose frames stand between a user's call and the code that warns, as decorators do."""


class PhioptWarning(UserWarning):
    """Something that is probably not meant. The result may be of no use, and nothing is wrong with the computation.

    The message names the argument, and says what to do. ``warnings.filterwarnings("ignore",
    category=phiopt.PhioptWarning)`` hides all such warnings, and with ``message=`` one of them.
    """


def warn(message: str) -> None:
    """Give a `PhioptWarning` at the innermost line outside phiopt that led here."""
    frame = _outside(sys._getframe(1))
    at = frame.f_globals
    warnings.warn_explicit(
        message,
        PhioptWarning,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=str(at.get("__name__", "<unknown>")),
        registry=at.setdefault("__warningregistry__", {}),
    )


def _outside(frame: FrameType) -> FrameType:
    """The innermost frame of the user's code; the outermost frame if there is none."""
    while frame.f_back is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in PLUMBING:
            break
        frame = frame.f_back
    return frame
