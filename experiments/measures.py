"""Measures beside the paper's (`phiopt.criteria`): other corruptions, an attack, calibration, speed.

Images are ``(examples, channels, height, width)`` between ``low`` and ``high``, by default 0 and 1; models give
logits ``(examples, classes)`` and are left as they are.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from experiments.data import Examples
from experiments.train import Point
from phiopt import Gaussian, criteria
from phiopt.derivatives import differentiable
from phiopt.objective.neighbourhood import Draw, Neighbourhood

SEVERITIES = {
    "gaussian noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "gaussian blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
}
"""The parameter c of severities 1 to 5 in CIFAR-10-C (Hendrycks & Dietterich, 2019), for images in [0, 1]."""


ATTACK = 0.01
"""ε of `others`' attack, as a share of the inputs' range."""


@dataclass(frozen=True)
class Distortion:
    """x' = ``apply(x)``: a neighbourhood of one point, for images in [0, 1] scaled to [low, high]."""

    apply: Callable[[Tensor], Tensor]
    low: float = 0.0
    high: float = 1.0

    @property
    def samples(self) -> int:
        return 1

    def draw(self, inputs: Tensor, generator: Generator) -> Draw:
        return ()

    def perturb(self, inputs: Tensor, draw: Draw) -> Tensor:
        if inputs.dim() != 4:
            raise ValueError(f"inputs: of shape {tuple(inputs.shape)}, must be images of 4 axes")
        unit = (inputs - self.low) / (self.high - self.low)
        distorted = self.apply(unit).clamp(0, 1) * (self.high - self.low) + self.low
        return distorted.unsqueeze(0)


def corruption(family: str, severity: int, *, low: float = 0.0, high: float = 1.0) -> Neighbourhood:
    """The corruption of a family of `SEVERITIES`, severity 1 to 5, as `phiopt.criteria.evaluate` takes it.

    With images in [0, 1] and c the severity's parameter, then clipped to [0, 1]:

        gaussian noise   x + c ε, ε ~ N(0, 1)
        gaussian blur    x * N(0, c²) over height and width, cut off at 4 c
        brightness       the value of (hue, saturation, value), the largest channel, plus c
        contrast         c (x - m) + m, m the mean of each channel of the image

    Blur is torchvision's. Its brightness multiplies, which leaves a black background black, and its contrast takes
    one mean of all channels, so these two are CIFAR-10-C's own. Raises ``ValueError`` for another family or severity.
    """
    if family not in SEVERITIES:
        raise ValueError(f"family: got {family!r}, must be one of {', '.join(SEVERITIES)}")
    if severity not in range(1, 6):
        raise ValueError(f"severity: got {severity}, must be 1, 2, 3, 4 or 5")
    if not low < high:
        raise ValueError(f"low, high: got {low} and {high}, low must be less than high")
    c = SEVERITIES[family][severity - 1]
    if family == "gaussian noise":
        return Gaussian(c * (high - low), clip=(low, high))
    apply = {"gaussian blur": _blurred, "brightness": _brightened, "contrast": _contrasted}[family]
    return Distortion(lambda x: apply(x, c), low, high)


def corruption_scores(
    model: nn.Module, data: Examples, *, low: float = 0.0, high: float = 1.0, seed: int = 0
) -> dict[str, list[criteria.Scores]]:
    """Accuracy and cross-entropy of each family, severities 1 to 5; the noise is a function of the seed."""
    return {
        family: [
            criteria.evaluate(model, data, corruption(family, s, low=low, high=high), seed=seed)
            for s in range(1, 6)
        ]
        for family in SEVERITIES
    }


def fgsm(
    model: nn.Module,
    data: Examples,
    epsilon: float,
    *,
    low: float = 0.0,
    high: float = 1.0,
    batch_size: int = 512,
) -> Examples:
    """The fast gradient sign attack (Goodfellow et al., 2015, section 4) on every example.

        x' = clip(x + ε sign ∇_x l(y, f(x)), low, high)

    ``epsilon`` is ε ≥ 0 in units of the inputs. Raises ``ValueError`` for another, ``FloatingPointError`` where
    gradients are not finite. `phiopt.criteria.accuracy` on the result is the accuracy under attack.
    """
    if not (isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon: got {epsilon}, must be at least 0 and finite")
    attacked = deepcopy(model).eval().requires_grad_(False)
    parts = []
    for x, y in zip(data.x.split(batch_size), data.y.split(batch_size), strict=True):
        x = x.detach().clone().requires_grad_()
        with differentiable():  # cuDNN's recurrent kernels have no derivative in evaluation mode
            loss = F.cross_entropy(attacked(x), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        if not gradient.isfinite().all():
            raise FloatingPointError("gradients: not all finite; the model diverged")
        parts.append((x.detach() + epsilon * gradient.sign()).clamp(low, high))
    return Examples(torch.cat(parts), data.y)


def calibration_error(model: nn.Module, data: Examples, *, bins: int = 15) -> float:
    """The expected calibration error (Guo et al., 2017, eq. 3), in [0, 1].

        Σ_b |B_b| / m · |accuracy(B_b) - mean confidence(B_b)|

    over ``bins`` ≥ 1 intervals of equal width ((b - 1) / bins, b / bins] of the confidence, the largest probability.
    """
    if bins < 1:
        raise ValueError(f"bins: got {bins}, must be at least 1")
    confidence, guess = criteria.predict(model, data).max(1)
    excess = (guess == data.y.cpu()).double() - confidence
    bin_of = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add(0, bin_of, excess)
    return (gaps.abs().sum() / len(excess)).item()


def others(
    model: nn.Module, data: Examples, *, low: float = 0.0, high: float = 1.0
) -> dict[str, float]:
    """What a record holds beside the paper's measures.

    Accuracy under the attack `fgsm` at ε = `ATTACK`, the calibration error, and the mean accuracy over the
    severities of each family of `SEVERITIES`.
    """
    attacked = fgsm(model, data, ATTACK * (high - low), low=low, high=high)
    families = corruption_scores(model, data, low=low, high=high)
    return {
        "fgsm": criteria.accuracy(model, attacked),
        "calibration_error": calibration_error(model, data),
        **{name: fmean(score.accuracy for score in scores) for name, scores in families.items()},
    }


def steps_to(curve: Sequence[Point], accuracy: float) -> float | None:
    """Gradient evaluations at the first point of a learning curve with at least this accuracy; None: never."""
    return next((point.gradients for point in curve if point.accuracy >= accuracy), None)


def _blurred(x: Tensor, c: float) -> Tensor:
    # torchvision takes width first, and reflects no more than the image has.
    radii = [min(round(4 * c), size - 1) for size in (x.shape[3], x.shape[2])]
    return gaussian_blur(x, [2 * radius + 1 for radius in radii], [c, c])


def _brightened(x: Tensor, c: float) -> Tensor:
    value = x.amax(1, keepdim=True)
    brighter = (value + c).clamp(max=1)
    # Hue and saturation are ratios of the channels; black has none and turns grey.
    return torch.where(value > 0, x * (brighter / value.clamp(min=1e-12)), brighter)


def _contrasted(x: Tensor, c: float) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return c * (x - mean) + mean
