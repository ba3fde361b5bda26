"""Figures: matplotlib when it is asked for, and files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from phiopt._files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
"""Colours that differ for every reader (Okabe and Ito)."""


def new_figure(what: str, width: float, height: float) -> Figure:
    """An empty figure of so many inches.

    Raises:
        ImportError: matplotlib is not installed; the message calls the figure ``what``.
    """
    try:
        import matplotlib.colors  # noqa: F401  (figures need it)
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"{what} needs matplotlib: pip install 'phiopt[experiments]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Save the figure, whole or not at all. Without a suffix it is PNG.

    Raises:
        ValueError: The suffix is none of a picture.
    """
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".png")
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        endings = ", ".join(f".{kind}" for kind in sorted(known))
        raise ValueError(f"path: got {str(path)!r}, must end in one of {endings}")
    with atomic(path) as temporary:
        figure.savefig(temporary)
