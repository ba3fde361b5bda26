"""The command line, ``phiopt map`` and ``phiopt grow``: models of timm and transformers, from file to file.

The command line needs the extra ``phiopt[families]``.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from phiopt.cli.commands import app  # Typer comes with the extra
    except ModuleNotFoundError as error:
        needed = "pip install 'phiopt[families]'"
        print(f"error: {error.name} is not installed; {needed}", file=sys.stderr)
        raise SystemExit(2) from None
    app()
