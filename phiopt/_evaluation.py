"""Run a trained model on data, for the measures of `phiopt.criteria`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader

from phiopt._checks import count, instance, part, seed_of
from phiopt._inputs import (
    Inputs,
    apply_to,
    as_loss_takes,
    dtypes_of,
    flattened,
    mapped,
    repeated,
    shapes_of,
)
from phiopt._outputs import logits_of
from phiopt._randomness import begun_anew, preserved_randomness
from phiopt._types import Loss
from phiopt._warnings import warn
from phiopt.data import (
    LEFT_OUT,
    Batch,
    NextTokens,
    Source,
    batch_of,
    check_source,
    collated,
    is_list_of_items,
    leaves_out,
)
from phiopt.objective.around import caution, drawn_around, no_neighbours, perturbed
from phiopt.objective.language import check_causal, check_decoder_inputs
from phiopt.objective.loss import TWICE, are_probabilities, check_labels
from phiopt.objective.neighbourhood import Neighbourhood


def means(
    model: nn.Module,
    data: Source,
    measures: Sequence[Loss],
    batch_size: int,
    neighbourhood: Neighbourhood | None,
    seed: int,
    *,
    default_loss: bool,
    cautious: bool = True,
) -> list[float]:
    """Mean of each ``measure(outputs, targets)`` over the data and the neighbourhood's samples.

    With ``default_loss`` the measures take class indices. Labels of a causal language model are moved then, and
    positions that the default loss leaves out do not count. If ``cautious``, warnings say what is odd on the
    first batch.
    """
    seed = seed_of(seed)
    if neighbourhood is not None:
        part("neighbourhood", neighbourhood, Neighbourhood)
    totals, losses, shapes = [0.0 for _ in measures], 0, ""
    first = True
    generator: Generator | None = None
    labels = NextTokens() if default_loss else None
    with evaluating(model, data, seed):
        for x, y in batches(model, data, batch_size, labels):
            if labels is not None and not losses:
                _check_language(model, x, labels.moves)
            if (
                cautious
                and first
                and neighbourhood is not None
                and (odd := caution(neighbourhood, x))
            ):
                warn(f"neighbourhood: {odd}")
            if neighbourhood is not None:
                generator = generator or Generator(_like(model).device).manual_seed(seed)
                x, y = _neighbours(neighbourhood, x, y, generator)
            outputs = finite(logits_of(apply_to(model, x)), "outputs")
            if default_loss:
                check_labels("data", outputs, y, leaves_out(x))
            if cautious and first and default_loss and are_probabilities(outputs, 1):
                warn(f"model: {TWICE}")
            first = False
            values = [_measured(measure, outputs, y) for measure in measures]
            if default_loss and leaves_out(x):
                values = [v[y != LEFT_OUT] for v in values]
            totals = [total + v.sum().item() for total, v in zip(totals, values, strict=True)]
            losses, shapes = losses + values[0].numel(), shapes_of(y)
    if not losses:
        raise ValueError(
            f"data: targets of shape {shapes} give no loss, must hold one label or more"
        )
    return [total / losses for total in totals]


def _check_language(model: nn.Module, inputs: Inputs, moved: bool) -> None:
    """Refuse inputs, or labels that were moved, that do not suit the model."""
    check_decoder_inputs("data", model, inputs)
    if moved:
        few = inputs[:2]
        check_causal("data", lambda x: logits_of(apply_to(model, x)).movedim(1, -1), few)


def _measured(measure: Loss, outputs: Tensor, targets: Inputs) -> Tensor:
    values = finite(measure(outputs, as_loss_takes(targets)), "losses").double()
    if values.shape[:1] != (len(targets),):
        raise ValueError(
            f"loss: returned shape {tuple(values.shape)}, must give one loss per example, "
            f"shape ({len(targets)},) (reduction='none')"
        )
    return values


def _neighbours(
    neighbourhood: Neighbourhood, x: Inputs, y: Inputs, generator: Generator
) -> tuple[Inputs, Inputs]:
    """All samples x' of the batch as one batch, each with its target."""
    if why := no_neighbours(neighbourhood, x):
        raise TypeError(f"data: inputs are {dtypes_of(x)}; {why}")
    noisy = perturbed(neighbourhood, x, drawn_around(neighbourhood, x, generator))
    return flattened(noisy), repeated(y, len(noisy))


@contextmanager
def evaluating(model: nn.Module, data: Source, seed: int) -> Iterator[None]:
    """Inside this context the model is in evaluation mode, and no gradients are recorded. At the end each submodule's
    mode is restored, and so are embeddings with ``max_norm``, to which a forward pass writes.
    """
    instance("model", model, nn.Module, "an nn.Module")
    modes = {module: module.training for module in model.modules()}
    tables = {
        part: part.weight.detach().clone()
        for part in modes
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.max_norm is not None
    }
    try:
        model.eval()
        with preserved_randomness(data, _like(model).device, seed), torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for part, table in tables.items():
                part.weight.copy_(table)


def _like(model: nn.Module) -> Tensor:
    return next(model.parameters(), torch.empty(0))


def batches(
    model: nn.Module, data: Source, batch_size: int, labels: NextTokens | None = None
) -> Iterator[Batch]:
    """Every batch of the data, on the model's device and dtype. ``labels`` moves those of a causal language model."""
    like = _like(model)
    empty = True
    for batch in _source(data, batch_size):
        x, y = batch_of("data", batch)
        if len(x) == 0:
            continue
        empty = False
        y = y if labels is None else labels("data", x, y)
        yield (
            mapped(
                lambda t: t.to(like.device, like.dtype if t.is_floating_point() else t.dtype), x
            ),
            mapped(lambda t: (t if t.is_floating_point() else t.long()).to(like.device), y),
        )
    if empty:
        raise ValueError("data: empty, at least one example is needed")


def _source(data: Source, batch_size: int) -> Iterable[Any]:
    count("batch_size", batch_size)
    check_source("data", data)
    if isinstance(data, DataLoader):
        return begun_anew(data)
    if isinstance(data, Mapping | tuple | list) and not is_list_of_items(data):
        x, y = batch_of("data", data)
        starts = range(0, len(x), batch_size)
        return ((x[i : i + batch_size], y[i : i + batch_size]) for i in starts)
    examples: Any = data
    return DataLoader(examples, batch_size, collate_fn=partial(collated, "data"))


def finite(values: Tensor, name: str) -> Tensor:
    """``values``. Raises ``FloatingPointError`` by ``name`` if one is NaN or infinite."""
    if not values.isfinite().all():
        raise FloatingPointError(
            f"{name}: not all finite; the model diverged or the data holds NaN"
        )
    return values
