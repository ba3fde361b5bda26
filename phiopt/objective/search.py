"""The report of a search within a term, such as the search for an eigenvector."""

from typing import NamedTuple


class Search(NamedTuple):
    """How a search for probes ended.

    Args:
        products: Products H v spent on it.
        error: For an eigenvector, a bound on the sine of the angle that is left. The relative error of the
            gradient is in proportion to it, that of the value to its square. Under ``torch.vmap`` the largest
            of all.
        unsettled: How many searches did not reach their tolerance: 0 or 1, or more under ``torch.vmap``.
    """

    products: int
    error: float
    unsettled: int
