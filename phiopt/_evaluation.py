"""Run a trained model on data, for the measures of `phiopt.criteria`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset

from phiopt._checks import count, instance, part, seed_of
from phiopt._outputs import logits_of
from phiopt._randomness import begun_anew, preserved_randomness
from phiopt._types import Loss
from phiopt.data import Source, check_pair, check_source
from phiopt.objective.neighbourhood import Neighbourhood


def means(
    model: nn.Module,
    data: Source,
    measures: Sequence[Loss],
    batch_size: int,
    neighbourhood: Neighbourhood | None,
    seed: int,
) -> list[float]:
    """Mean of each ``measure(outputs, targets)`` over the data and the neighbourhood's samples."""
    seed = seed_of(seed)
    if neighbourhood is not None:
        part("neighbourhood", neighbourhood, Neighbourhood)
    totals, losses = [0.0 for _ in measures], 0
    generator: Generator | None = None
    with evaluating(model, data, seed):
        for x, y in batches(model, data, batch_size):
            if neighbourhood is not None:
                generator = generator or Generator(x.device).manual_seed(seed)
                x, y = _neighbours(neighbourhood, x, y, generator)
            outputs = finite(logits_of(model(x)), "outputs")
            values = [finite(measure(outputs, y), "losses").double() for measure in measures]
            if any(v.shape[:1] != y.shape[:1] for v in values):
                raise ValueError(
                    f"loss: returned shape {tuple(values[0].shape)}, must give one loss per example, "
                    f"shape ({len(y)},) (reduction='none')"
                )
            if not values[0].numel():
                raise ValueError(
                    f"data: targets of shape {tuple(y.shape)} give no loss, must hold one label or more"
                )
            totals = [total + v.sum().item() for total, v in zip(totals, values, strict=True)]
            losses += values[0].numel()
    return [total / losses for total in totals]


def _neighbours(
    neighbourhood: Neighbourhood, x: Tensor, y: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """All samples x' of the batch as one batch, each with its target."""
    if not x.is_floating_point():
        raise TypeError(f"data: inputs are {x.dtype}; neighbours x' need floating inputs")
    noisy = neighbourhood.perturb(x, neighbourhood.draw(x, generator))
    return noisy.flatten(0, 1), y.expand(len(noisy), *y.shape).flatten(0, 1)


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


def batches(model: nn.Module, data: Source, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every batch of the data, on the model's device and dtype."""
    like = _like(model)
    empty = True
    for batch in _source(data, batch_size):
        x, y = check_pair("data", batch)
        if len(x) == 0:
            continue
        empty = False
        dtype = like.dtype if x.is_floating_point() else x.dtype
        yield x.to(like.device, dtype), (y if y.is_floating_point() else y.long()).to(like.device)
    if empty:
        raise ValueError("data: empty, at least one example is needed")


def _source(data: Source, batch_size: int) -> Iterable[tuple[Tensor, Tensor]]:
    count("batch_size", batch_size)
    check_source("data", data)
    if isinstance(data, DataLoader):
        return begun_anew(data)
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size)
    x, y = check_pair("data", data)
    return zip(x.split(batch_size), y.split(batch_size), strict=True)


def finite(values: Tensor, name: str) -> Tensor:
    """``values``. Raises ``FloatingPointError`` by ``name`` if one is NaN or infinite."""
    if not values.isfinite().all():
        raise FloatingPointError(
            f"{name}: not all finite; the model diverged or the data holds NaN"
        )
    return values
