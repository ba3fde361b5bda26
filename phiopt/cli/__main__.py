"""``python -m phiopt.cli``, the same as ``phiopt``."""

from phiopt.cli import main

if __name__ == "__main__":
    main()
