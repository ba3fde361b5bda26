"""The error of two models that do not match."""

from __future__ import annotations


class AlignmentError(ValueError):
    """The two computations part; the message names the first node where and what would settle it."""
