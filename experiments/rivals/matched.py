"""The control for `phi_slice`: its start, without φ.

w[û] = û, new weights default, the head's new rows rescaled to the root mean square of the old ones
"""

from experiments.methods import Growth, Initialised, extended


def matched(growth: Growth, seed: int) -> Initialised:
    """Default extension with the rows of new classes as large as the teacher's."""
    return Initialised(extended(growth, seed, "matched"))
