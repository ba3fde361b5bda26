"""Noise augmentation: robustness bought while training on D2 and not at the start (Sietsma & Dow, 1991).

E_{x' ∈ U_δ(x)} l(y, f(x')),   one x' to an example and step, with the U_δ of φ's noise term, scaled to D2's inputs
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Generator, Tensor

from experiments.ensemble import Model
from experiments.methods import Growth, default
from experiments.rivals.common import Hooked
from phiopt.objective.neighbourhood import Neighbourhood


@dataclass(frozen=True)
class Augmentation:
    """The loss of a training step, the mean over the neighbourhood's samples."""

    neighbourhood: Neighbourhood

    @property
    def cost(self) -> float:
        return self.neighbourhood.samples

    def prepare(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, ...]:
        noisy = self.neighbourhood.perturb(x, self.neighbourhood.draw(x, generator))
        targets = y.expand(len(noisy), *y.shape)
        return noisy.flatten(0, 1), targets.flatten()

    def __call__(self, model: Model, *prepared: Tensor) -> Tensor:
        noisy, targets = prepared
        return F.cross_entropy(model(noisy), targets)


def augmentation(growth: Growth, seed: int) -> Hooked:
    """From the default extension, so that it differs from `default` in the training alone."""
    noise = growth.noise or growth.phi.neighbourhood
    return Hooked(default(growth, seed).student, loss=Augmentation(noise))
