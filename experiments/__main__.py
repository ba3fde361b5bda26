"""``python -m experiments``: one command line for every experiment, run from a clone."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from experiments.cli import app
    except ModuleNotFoundError as error:
        needed = "pip install -e '.[experiments]'"
        print(f"error: {error.name} is not installed; {needed}", file=sys.stderr)
        raise SystemExit(2) from None
    app()


if __name__ == "__main__":
    main()
