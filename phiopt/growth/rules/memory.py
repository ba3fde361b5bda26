"""Operations that make or copy memory. They have no rule: copies are not recorded, and new memory is a constant, also
where data is written into it later, as into the states of a recurrent layer.
"""

from phiopt.growth.catalogue import Facts, declare

declare(
    "empty", "new_empty", "new_zeros", "new_ones", "new_full", "empty_like", "zeros_like", "ones_like", "full_like",
    "empty_strided", "new_empty_strided", "zeros", "ones", "full", "eye", "arange", facts=Facts(creates=True),
)  # fmt: skip
declare(
    "clone", "alias", "detach", "lift_fresh", "contiguous", "view_as",
    facts=Facts(copies=True),
)  # fmt: skip
