"""One rule for each operation: how the correspondence of axes passes through it, and what else is known of it."""

from phiopt.growth.rules import (  # noqa: F401
    elementwise,
    fourier,
    indexing,
    joining,
    matrix,
    memory,
    normalise,
    reduce,
    reordering,
    spatial,
    views,
)
