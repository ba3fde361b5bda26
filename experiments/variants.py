"""What makes φ better: `phi_slice` with one setting changed at a time, which the name tells, on validation
data alone.

The test images are not touched: half of each seed's validation part chooses learning rates, and the other
half is measured.  Other seeds were trained on some of its images, so that predictions are not compared
over seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import nn

from experiments import basic, classes
from experiments.classes import KNOWN, known_classes
from experiments.data import Source, Splits, fashion_mnist
from experiments.experiment import Experiment
from experiments.methods import (
    NOISE,
    Descent,
    Growth,
    Initialised,
    Layer,
    default,
    extended,
    phi,
    phi4,
    phi_slice,
    solve_phi,
)
from experiments.models import CNN
from experiments.norms import STATISTICS
from experiments.rivals import RIVALS
from experiments.rivals.late_reset import Layers, first_half, rest_afresh
from experiments.scales import FASHION, NETWORKS, RATES, Scale, Widths
from experiments.task import Method, Task
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
    scale: Literal["relative", "paper"] = "relative",
    layers: Layers = lambda layers: layers,
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
            scale=scale,
            layers=layers,
        )

    return variant


def at_rate(method: Method, rate: float) -> Method:
    """Trained at one rate, whatever validation data would choose."""
    return lambda growth, seed: replace(method(growth, seed), learning_rates=(rate,))


def plain(method: Method, rate: float) -> Method:
    """φ's solver sees gradients of the size they have."""
    descent = Descent(120, rate, normalised=False)

    def variant(growth: Growth, seed: int) -> Initialised:
        phi = replace(growth.phi, three_terms=descent, four_terms=descent)
        return method(replace(growth, phi=phi), seed)

    return variant


def delta_rising(growth: Growth, seed: int) -> Initialised:
    """The first half of the steps with a third of δ, the others from there with all of it."""
    descent = growth.phi.three_terms
    half = descent._replace(steps=descent.steps // 2)
    noise = growth.phi.neighbourhood
    assert isinstance(noise, Corruption)
    first = changed(descent=half, delta=float(noise.delta) / 3)(growth, seed)
    free = replace(growth, phi=replace(growth.phi, restrict_classes=False))
    last = solve_phi(free, seed, NOISE, half, fill=first.student, old_only=True)
    return replace(last, gradients=first.gradients + last.gradients, start=first.start)


def head_reset_start(growth: Growth, seed: int) -> Initialised:
    """φ starts where the teacher's rows of the head are afresh too."""
    start = rest_afresh(growth, seed, extended(growth, seed, "matched"), but_head)
    free = replace(growth, phi=replace(growth.phi, restrict_classes=False))
    return solve_phi(free, seed, NOISE, growth.phi.three_terms, fill=start, old_only=True)


def head_reset(growth: Growth, seed: int) -> Initialised:
    """The head starts afresh after φ."""
    solved = phi_slice(growth, seed)
    return replace(solved, student=rest_afresh(growth, seed, solved.student, but_head))


def reset_late(growth: Growth, seed: int) -> Initialised:
    """The later half of the layers starts afresh after φ; `phi_early` keeps the middle one too."""
    solved = phi_slice(growth, seed)
    kept = rest_afresh(growth, seed, solved.student, lambda layers: layers[: len(layers) // 2])
    return replace(solved, student=kept)


def but_head(layers: Sequence[Layer]) -> Sequence[Layer]:
    return layers[:-1]


def second_half(layers: Sequence[Layer]) -> Sequence[Layer]:
    return layers[len(first_half(layers)) :]


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
    "equal-four-40-steps": changed(EQUAL, Descent(40, 3e-3)),
    # With as many steps as its Frobenius counterpart above, and few products to a step: what a
    # stochastic step needs. 120 steps would cost more than the budget.
    "equal-four-spectral": changed(EQUAL, Descent(40, 3e-3), curvature=Spectral(iterations=8)),
    "delta-0.1": changed(delta=0.1),
    "delta-0.6": changed(delta=0.6),
    "40-steps": changed(descent=Descent(40, 3e-3)),
    "360-steps": changed(descent=Descent(360, 3e-3)),
    "rate-0.001": changed(descent=Descent(120, 1e-3)),
    "rate-0.01": changed(descent=Descent(120, 1e-2)),
    "batches-of-128": changed(descent=Descent(60, 3e-3), batch_size=128),
    "raw-scale": changed(scale="paper"),
    "delta-rising": delta_rising,
    "early-layers": changed(layers=first_half),
    "late-layers": changed(layers=second_half),
    "head-reset-start": head_reset_start,
    "head-reset": head_reset,
    "reset-late": reset_late,
    **{
        f"{method.__name__}-plain-{rate:g}": plain(method, rate)
        for method in (phi, phi4, phi_slice)
        for rate in (1e-3, 5e-3)
    },
    **{
        f"{method.__name__}-trained-at-{rate:g}": at_rate(method, rate)
        for method in (default, phi_slice)
        for rate in RATES
    },
}


def tasks(scale: Scale, images: Source) -> list[Task]:
    """The architectures of `classes`, then those of `basic`, then a CNN with batch normalisation."""
    plain = [untested(task, VARIANTS) for task in both(scale, images)]
    return [*plain, untested(normed(scale, images), VARIANTS | STATISTICS)]


def both(scale: Scale, images: Source) -> list[Task]:
    """The architectures of `classes`, then those of `basic` as ``…-same``."""
    grown = [task for task in classes.tasks(scale, images) if task.name in NETWORKS]
    same = [replace(task, name=f"{task.name}-same") for task in basic.tasks(scale, images)]
    return grown + same


def normed(scale: Scale, images: Source) -> Task:
    """The CNN of `classes` with batch normalisation."""
    task = known_classes(scale, "cnn", classes.TITLE, scale.splits(images))

    def network(widths: Widths, classes: int) -> Callable[[], nn.Module]:
        channels, size, _ = FASHION
        return partial(CNN, channels, size, widths.maps, widths.hidden, classes, norm=True)

    return replace(
        task,
        name="cnn-norm",
        title=f"{task.title} with batch normalisation",
        teacher=network(scale.teacher, len(KNOWN)),
        student=network(scale.student, FASHION.classes),
    )


def untested(task: Task, methods: Mapping[str, Method]) -> Task:
    """The task without its test part, in which ``methods`` are compared."""
    return replace(task, splits=_halved(task.splits), methods=methods, same_test=False)


def _halved(splits: Callable[[int], Splits]) -> Callable[[int], Splits]:
    """Half of the validation part in place of the test part."""

    def halves(seed: int) -> Splits:
        train, validation, _ = splits(seed)
        first, second = torch.arange(len(validation.x)).chunk(2)
        return Splits(train, validation.take(first), validation.take(second))

    return halves


EXPERIMENT = Experiment("variants", fashion_mnist, tasks, VARIANTS | STATISTICS, mlp_at_quick=True)
