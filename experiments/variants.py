"""What makes φ better: `phi_slice` with one setting changed at a time, which the name tells, on validation
data alone.

The test images are not touched: half of each seed's validation part chooses learning rates, and the other
half is measured.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from experiments import basic, classes
from experiments.data import Source, Splits, fashion_mnist
from experiments.experiment import Experiment
from experiments.methods import (
    NOISE,
    Descent,
    Growth,
    Initialised,
    default,
    phi,
    phi4,
    phi_slice,
    solve_phi,
)
from experiments.rivals import RIVALS
from experiments.scales import NETWORKS, Scale
from experiments.study import Method, Task
from phiopt import Corruption, Frobenius, Lambdas, Spectral

EQUAL = Lambdas(0.25, 0.25, 0.25, 0.25)


def changed(
    lambdas: Lambdas = NOISE,
    descent: Descent | None = None,
    *,
    delta: float | None = None,
    batch_size: int | None = None,
    restrict: bool = False,
    fill: str = "matched",
    old_only: bool = True,
    curvature: Frobenius | Spectral | None = None,
) -> Method:
    """`phi_slice` with these settings; None: the task's own."""

    def variant(growth: Growth, seed: int) -> Initialised:
        settings = replace(growth.phi, restrict_classes=restrict)
        if delta is not None:
            settings = replace(settings, neighbourhood=Corruption(delta))
        if batch_size is not None:
            settings = replace(settings, batch_size=batch_size)
        return solve_phi(
            replace(growth, phi=settings),
            seed,
            lambdas,
            descent or settings.three_terms,
            fill=fill,
            old_only=old_only,
            curvature=curvature,
        )

    return variant


VARIANTS: dict[str, Method] = {
    "default": default,
    "matched": RIVALS["matched"],
    "phi": phi,
    "phi4": phi4,
    "phi_slice": phi_slice,
    "all-coordinates": changed(old_only=False),
    "default-start": changed(fill="default"),
    "zero-out-start": changed(fill="zero-out"),
    "known-classes": changed(restrict=True),
    "equal-three": changed(Lambdas(0.34, 0.33, 0.33, 0.0)),
    "equal-four": changed(EQUAL, Descent(120, 3e-3)),
    "equal-four-spectral": changed(EQUAL, Descent(40, 3e-3), curvature=Spectral()),
    "delta-0.1": changed(delta=0.1),
    "delta-0.6": changed(delta=0.6),
    "40-steps": changed(descent=Descent(40, 5e-3)),
    "360-steps": changed(descent=Descent(360, 5e-3)),
    "rate-0.002": changed(descent=Descent(120, 2e-3)),
    "rate-0.01": changed(descent=Descent(120, 1e-2)),
    "batches-of-128": changed(descent=Descent(60, 5e-3), batch_size=128),
}


def tasks(scale: Scale, images: Source) -> list[Task]:
    """The architectures of `classes`, then those of `basic`."""
    grown = [task for task in classes.tasks(scale, images) if task.name in NETWORKS]
    same = [replace(task, name=f"{task.name}-same") for task in basic.tasks(scale, images)]
    return [replace(task, splits=_untested(task.splits), methods=VARIANTS) for task in grown + same]


def _untested(splits: Callable[[int], Splits]) -> Callable[[int], Splits]:
    """Half of the validation part in place of the test part."""

    def halves(seed: int) -> Splits:
        train, validation, _ = splits(seed)
        first, second = torch.arange(len(validation.x)).chunk(2)
        return Splits(train, validation.take(first), validation.take(second))

    return halves


EXPERIMENT = Experiment("variants", fashion_mnist, tasks)
