"""The rivals: one file each, with its formula and source, in one registry (docs/rivals.md)."""

from collections.abc import Callable

from experiments.methods import Growth, Initialised
from experiments.rivals.augmentation import augmentation
from experiments.rivals.distillation import distillation
from experiments.rivals.glorot import glorot
from experiments.rivals.gradmax import gradmax
from experiments.rivals.late_reset import late_reset, phi_early
from experiments.rivals.ligo import ligo
from experiments.rivals.matched import matched
from experiments.rivals.preserving import net2wider, vv_zz, zero_out
from experiments.rivals.robustified import (
    robustified,
    robustified4,
    robustified4_slice,
    robustified_slice,
)
from experiments.rivals.shrink_perturb import shrink_perturb
from experiments.rivals.shuffled import shuffled

RIVALS: dict[str, Callable[[Growth, int], Initialised]] = {
    rival.__name__: rival
    for rival in (
        glorot,
        matched,
        zero_out,
        net2wider,
        vv_zz,
        ligo,
        gradmax,
        shrink_perturb,
        shuffled,
        late_reset,
        phi_early,
        robustified,
        robustified4,
        robustified_slice,
        robustified4_slice,
        distillation,
        augmentation,
    )
}
"""Beside `experiments.methods.METHODS`; the teacher kept small and trained longer is its ``zero``."""
