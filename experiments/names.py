"""The names that a command line may give: initialisations and tasks of each experiment, and devices.

They are what the experiments themselves register, said once more here, because those import PyTorch and take seconds.
"""

from collections.abc import Mapping
from typing import NamedTuple

PAPER = ("scratch", "zero", "uniform", "default", "phi", "phi4", "phi_slice")
"""The paper's initialisations and φ's own, compared where none are named."""
METHODS = (
    *PAPER, "phi-noise", "phi-learned", "phi4_slice", "glorot", "matched", "zero_out", "net2wider", "vv_zz", "ligo",
    "gradmax", "shrink_perturb", "shuffled", "late_reset", "phi_early", "robustified", "robustified4",
    "robustified_slice", "robustified4_slice", "distillation", "augmentation",
)  # fmt: skip
_THETA = (
    "scratch",
    "default",
    "zero",
    *(f"uniform-{t}" for t in ("0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1")),
)
_LAMBDAS = (
    "scratch",
    "default",
    *(f"phi-{terms}" for terms in ("2", "12", "23", "123", "24", "124", "234", "1234")),
)
_PHI = ("phi", "phi4", "phi_slice")
_VARIANTS = (
    "default", "matched", *_PHI, "all-coordinates", "default-start", "zero-out-start", "known-classes", "equal-three",
    "equal-four", "equal-four-40-steps", "equal-four-spectral", "delta-0.1", "delta-0.6", "40-steps", "360-steps",
    "rate-0.001", "rate-0.01", "batches-of-128", "raw-scale", "delta-rising", "early-layers", "late-layers",
    "head-reset-start", "head-reset", "reset-late",
    *(f"{method}-plain-{rate}" for method in _PHI for rate in ("0.001", "0.005")),
    *(f"{method}-trained-at-{rate}" for method in ("default", "phi_slice") for rate in ("0.0001", "0.0005", "0.0025")),
    *(f"{method}-statistics-{what}" for method in ("default", "phi_slice") for what in ("reset", "recomputed")),
)  # fmt: skip
_CIFAR_VARIANTS = (
    "scratch", "default", "default-head-reset", "late_reset", "phi", "phi_slice", "phi_slice-head-reset", "phi_early",
)  # fmt: skip
_CIFAR_INPUTS = ("mlp", "mlp-raw", "mlp-centred", "cnn", "cnn-raw", "cnn-centred")
_NETWORKS = ("mlp", "cnn", "lstm")
_SIZES = (
    "100",
    "300",
    "1000",
    "3000",
    "10000",
    "30000",
    "all",
)  # a scale has those of fewer images than its own
_SAME = tuple(f"{network}-same" for network in _NETWORKS)


class Names(NamedTuple):
    """Of one experiment."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...] = METHODS
    compared: tuple[str, ...] = PAPER
    """The methods where none are named."""


def _own(tasks: tuple[str, ...], methods: tuple[str, ...]) -> Names:
    return Names(tasks, methods, methods)


DEMO = Names(("digits",))
EXPERIMENTS: Mapping[str, Names] = {
    "basic": Names(_NETWORKS),
    "classes": Names((*_NETWORKS, "authors", "authors-linear")),
    "cifar": Names(_NETWORKS),
    "theta": _own(_NETWORKS, _THETA),
    "lambdas": _own(_NETWORKS, _LAMBDAS),
    "samples": Names(tuple(f"{network}-{size}" for network in _NETWORKS for size in _SIZES)),
    "variants": _own((*_NETWORKS, *_SAME, "cnn-norm"), _VARIANTS),
    "cifar-variants": _own(
        tuple(n + change for n in ("mlp", "cnn") for change in ("", "-raw", "-centred")),
        _CIFAR_VARIANTS,
    ),
    "variance": Names((*_NETWORKS, *_SAME)),
    "halves": Names(tuple(f"{n}-{data}" for n in _NETWORKS for data in ("same", "grown"))),
}
ABLATIONS = ("digits", "classes", "noise")
"""Tasks of the ablation."""
DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla", "privateuseone")
"""Kinds of devices that hold numbers."""
