"""The control for where growth meets φ: φ solved on the small teacher alone, then copied.

    u' = φ_small(û) = argmin_u λ1 L_f(u, D1) + λ2 ‖û - u‖² + λ3 L3^δ(u, D1) + λ4 L4,   w_1 = default extension of u'

What it gains over the default extension of û owes nothing to solving φ in the large network.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

from experiments.methods import Growth, Initialised, extended, phi, phi4, phi_slice
from experiments.weights import phi4_slice


def robustified(growth: Growth, seed: int) -> Initialised:
    """With φ's three terms, λ = (.34, .33, .33, 0)."""
    return _copied(growth, seed, phi)


def robustified4(growth: Growth, seed: int) -> Initialised:
    """With all four, λ = (¼, ¼, ¼, ¼)."""
    return _copied(growth, seed, phi4)


def robustified_slice(growth: Growth, seed: int) -> Initialised:
    """With `phi_slice`, which moves all coordinates of the teacher itself, and its start for the others."""
    return _copied(growth, seed, phi_slice, "matched")


def robustified4_slice(growth: Growth, seed: int) -> Initialised:
    """With `phi4_slice`, likewise."""
    return _copied(growth, seed, phi4_slice, "matched")


def _copied(
    growth: Growth,
    seed: int,
    solve: Callable[[Growth, int], Initialised],
    fill: str = "default",
) -> Initialised:
    small = replace(growth, student=lambda: deepcopy(growth.teacher), lift=None, classes=None)
    solved = solve(small, seed)
    return Initialised(
        extended(replace(growth, teacher=solved.student), seed, fill),
        solved.gradients,
        extended(growth, seed, fill),
        solved.report,
    )
