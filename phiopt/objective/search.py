"""How a search within a term, such as that for an eigenvector, tells how it ended."""

from typing import NamedTuple


class Search(NamedTuple):
    """How a search for probes ended.

    Args:
        products: H v spent on it.
        error: Relative error of the gradient up to a factor, that of the value up to a square: for an
            eigenvector the sine of the angle that is left, at most. The largest, of many under
            ``torch.vmap``.
        unsettled: How many of these were not found to their tolerance: 0 or 1 of one.
    """

    products: int
    error: float
    unsettled: int
