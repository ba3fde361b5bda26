"""The paper's measures of a trained student (sections 4 and 5.2).

Each takes a module and data, and gives plain numbers. The model runs in evaluation mode and without gradients. Its
modes are restored; its parameters, the data and the global random state stay as they were.

Data are a pair of tensors ``(x, y)``, a mapping with labels, a map-style ``Dataset`` of such pairs or mappings, or a
``DataLoader`` of batches (docs/data.md). Batches are moved to the device and the floating dtype of the model.

Outputs are logits of shape ``(batch, classes, ...)``, with the classes on axis 1, and targets are class indices of
shape ``(batch, ...)``. Other shapes and labels are refused with a ``ValueError``. A model that gives
``(batch, time, classes)`` must be wrapped in a model that moves the axis. Of a mapping of outputs, as the models of
transformers return it, the logits count, and of tokens the last axis is moved. Where inputs are given by name, labels
-100 are left out of every mean.

Numbers that are not finite are refused with a ``FloatingPointError``: a diverged model has no accuracy.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phiopt._checks import instance, number, part
from phiopt._evaluation import batches, evaluating, finite, means
from phiopt._inputs import apply_to
from phiopt._order import in_order
from phiopt._outputs import logits_of
from phiopt._shown import shown
from phiopt._types import Function, Loss
from phiopt._warnings import warn
from phiopt.data import Source
from phiopt.objective.corruption import Corruption
from phiopt.objective.loss import TWICE, are_probabilities, check_class_axis
from phiopt.objective.neighbourhood import Neighbourhood

PERCENTAGES = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


class CorruptionCurve(NamedTuple):
    """Accuracy and mean cross-entropy against the percentage of corrupted pixels."""

    percentages: list[float]
    accuracy: list[float]
    cross_entropy: list[float]


class Scores(NamedTuple):
    """Accuracy in [0, 1] and mean cross-entropy in nats."""

    accuracy: float
    cross_entropy: float


@in_order
def evaluate(
    model: nn.Module,
    data: Source,
    neighbourhood: Neighbourhood | None = None,
    *,
    batch_size: int = 512,
    seed: int = 0,
) -> Scores:
    """`accuracy` and `cross_entropy` in one pass.

    Args:
        model: Inputs to logits ``(batch, classes, ...)``.
        data: Of the model's inputs; see this module.
        neighbourhood: U_δ. Its draws x' take the place of x, as in `robustness`. Default: none.
        batch_size: Examples in a batch; default 512. It bounds memory and changes nothing else. A ``DataLoader``
            has a batch size of its own.
        seed: Seed of the draws and of a shuffling loader; default 0.

    Raises:
        ValueError: Data that is empty or whose two parts differ in length, labels that are no
            indices of the outputs' axis 1, ``batch_size`` < 1.
        TypeError: Data that is no such pair, targets that are not integers, or noise around inputs
            that are not floating.
        FloatingPointError: Logits or losses that are not finite.

    Examples:
        >>> model, data = nn.Linear(4, 3), (torch.randn(8, 4), torch.randint(3, (8,)))
        >>> scores = evaluate(model, data)
        >>> scores == (accuracy(model, data), cross_entropy(model, data))
        True
    """
    return _scores(model, data, neighbourhood, batch_size, seed)


@in_order
def accuracy(model: nn.Module, data: Source, *, batch_size: int = 512) -> float:
    """Share of the targets that are the class of the largest logit, in [0, 1].

    Arguments and errors as in `evaluate`.

    Examples:
        >>> copy = nn.Identity()  # answers with its input
        >>> accuracy(copy, (torch.eye(3), torch.tensor([0, 1, 0])))
        0.6666666666666666
    """
    return _scores(model, data, None, batch_size, seed=0, cautious=False).accuracy


@in_order
def cross_entropy(model: nn.Module, data: Source, *, batch_size: int = 512) -> float:
    """Mean of l(y, ŷ) = -log ŷ_y over the data, in nats (the paper's loss, section 2).

    Arguments and errors as in `evaluate`.

    Examples:
        >>> copy = nn.Identity()  # answers with its input
        >>> round(cross_entropy(copy, (torch.zeros(5, 4), torch.zeros(5, dtype=torch.long))), 4)
        1.3863
    """
    return evaluate(model, data, batch_size=batch_size).cross_entropy


@in_order
def robustness(
    model: nn.Module,
    data: Source,
    neighbourhood: Neighbourhood,
    *,
    loss: Loss | None = None,
    batch_size: int = 512,
    seed: int = 0,
) -> float:
    """The paper's quality criterion L3^δ(w*, D2) (section 4): the expected loss around each example.

        1/m Σ_{(x, y) ∈ D2} E_{x' ∈ U_δ(x)} l(y, f(x', w*))

    The paper prints a sum over D2. Here it is a mean, so that data sets of different sizes can be compared. The
    expectation is the average over the neighbourhood's draws of x' for an x. The draws depend on ``seed`` and on the
    order and batching of the data: models measured with the same arguments get the same x'.

    Args:
        model: Inputs to outputs that ``loss`` takes.
        data: D2, of the model's inputs; see this module.
        neighbourhood: U_δ, in units of the model's inputs.
        loss: ``l(outputs, targets)`` to per-example losses. Default: cross-entropy, in nats.
        batch_size: Examples in a batch, each with all its samples; as in `evaluate`.
        seed: Seed of the draws; default 0.

    Raises:
        ValueError, FloatingPointError: As in `evaluate`.

    Examples:
        >>> from phiopt import Uniform
        >>> model, data = nn.Linear(4, 3), (torch.randn(8, 4), torch.randint(3, (8,)))
        >>> robustness(model, data, Uniform(0.0)) == cross_entropy(model, data)
        True
    """
    part("neighbourhood", neighbourhood, Neighbourhood)
    if loss is not None:
        part("loss", loss, Function)
    measures = (_log_loss if loss is None else loss,)
    default = loss is None
    return means(model, data, measures, batch_size, neighbourhood, seed, default_loss=default)[0]


@in_order
def prediction_variance(
    models: Sequence[nn.Module], data: Source, *, batch_size: int = 512
) -> float:
    """Variance of the predicted probabilities between models trained with different seeds.

        1/m Σ_x Σ_k Var_s[f_k(x, w_s)],   the unbiased variance over the models s

    It is 0 if all agree on every example (section 5.2 compares it between initialisations).

    Raises:
        ValueError: Fewer than two models, else as in `evaluate`.
        FloatingPointError: As in `evaluate`.

    Examples:
        >>> data = torch.randn(8, 4), torch.randint(3, (8,))
        >>> prediction_variance([nn.Linear(4, 3) for seed in range(5)], data) > 0
        True
    """
    instance("models", models, (list, tuple), "a list of modules")
    if len(models) < 2:
        raise ValueError(
            f"models: got {len(models)}, must be two or more: a variance needs at least two"
        )
    for i, model in enumerate(models):
        instance(f"models[{i}]", model, nn.Module, "an nn.Module")
    probabilities = torch.stack([predict(model, data, batch_size=batch_size) for model in models])
    return probabilities.var(0).sum(1).mean().item()


@in_order
def predict(model: nn.Module, data: Source, *, batch_size: int = 512) -> Tensor:
    """The class probabilities f(x, w), float64 of shape ``(examples, classes, ...)``, on the CPU.

    They are in the order of the data; a ``DataLoader`` that shuffles has an order of its own. Arguments and errors as
    in `evaluate`.

    Examples:
        >>> predict(nn.Linear(4, 3), (torch.randn(8, 4), torch.randint(3, (8,)))).shape
        torch.Size([8, 3])
    """
    with evaluating(model, data, seed=0):
        parts: list[Tensor] = []
        for x, y in batches(model, data, batch_size):
            outputs = finite(logits_of(apply_to(model, x)), "outputs")
            if isinstance(y, Tensor) and not y.is_floating_point():  # else no labels
                check_class_axis("data", outputs, y)
            elif outputs.dim() < 2:
                raise ValueError(
                    f"model: its outputs are {tuple(outputs.shape)}, must be logits (batch, classes, ...)"
                )
            if not parts and outputs.dim() > 1 and are_probabilities(outputs, 1):
                warn(f"model: {TWICE}")
            parts.append(outputs.double().softmax(1).cpu())
    return torch.cat(parts)


@in_order
def corruption_curve(
    model: nn.Module,
    data: Source,
    percentages: Sequence[float] = PERCENTAGES,
    *,
    low: float = 0.0,
    high: float = 1.0,
    batch_size: int = 512,
    seed: int = 0,
) -> CorruptionCurve:
    """Accuracy and cross-entropy against the percentage of image corrupted (section 5.3, 2).

    Each pixel is replaced by U[low, high] with that probability (`phiopt.Corruption`). There is one draw for each image
    and percentage, which depends on ``seed``: models measured with the same arguments get the same images.

    Args:
        model: As in `evaluate`, and so are ``data``, ``batch_size`` and ``seed``.
        percentages: Of pixels corrupted, each in [0, 100]. Default 0, 10, ..., 100.
        low: Least value of the inputs. Default 0.
        high: Largest. Default 1.

    Raises:
        ValueError: A percentage outside [0, 100], ``low`` ≥ ``high``, else as in `evaluate`.
        FloatingPointError: As in `evaluate`.

    Examples:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> images = torch.rand(8, 1, 4, 4), torch.randint(3, (8,))
        >>> corruption_curve(model, images, (0, 30)).percentages
        [0.0, 30.0]
    """
    percentages = _percentages(percentages)
    noises = [Corruption(percentage / 100, low=low, high=high) for percentage in percentages]
    first = next((noise for noise in noises if noise.delta), None)  # warnings are given once
    scores = [_scores(model, data, n, batch_size, seed, cautious=n is first) for n in noises]
    return CorruptionCurve(
        percentages,
        [score.accuracy for score in scores],
        [score.cross_entropy for score in scores],
    )


def _percentages(values: object) -> list[float]:
    """Numbers from 0 to 100, in the order given; at least one."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"percentages: got {shown(values)}, must be numbers in [0, 100]")
    numbers = [number("percentages", value) for value in values]
    if not numbers:
        raise ValueError(f"percentages: got {shown(values)}, must be one number or more")
    for value in numbers:
        if not 0 <= value <= 100:
            raise ValueError(f"percentages: got {value:g}, each must lie in [0, 100]")
    return numbers


def _scores(
    model: nn.Module,
    data: Source,
    neighbourhood: Neighbourhood | None,
    batch_size: int,
    seed: int,
    cautious: bool = True,
) -> Scores:
    options = {"default_loss": True, "cautious": cautious}
    loss, hits = means(model, data, (_log_loss, _hits), batch_size, neighbourhood, seed, **options)
    return Scores(hits, loss)


def _hits(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).double()


def _log_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")
