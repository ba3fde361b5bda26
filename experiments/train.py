"""The training loop that every teacher and student goes through."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from experiments.data import Examples
from experiments.ensemble import Model, TrainingLoss, students
from phiopt import criteria

POINTS = 40
"""Of a learning curve, at most, beside its ends."""


class Point(NamedTuple):
    """Validation measures after so many gradient evaluations."""

    gradients: float
    accuracy: float
    cross_entropy: float


@dataclass(frozen=True)
class Recipe:
    """How long and how to train; the same for every student of a task."""

    budget: int
    """Gradient evaluations in all, those that an initialisation takes included."""
    batch_size: int
    learning_rates: tuple[float, ...]
    """Tried in turn; validation data chooses."""

    def epoch(self, train: Examples) -> int:
        """Gradient evaluations of one pass: full batches, at least one."""
        return max(1, len(train.x) // self.batch_size)

    def interval(self, train: Examples) -> int:
        """Steps from one point of the learning curve to the next: whole passes, at least a `POINTS`th
        of the budget, for a pass over few examples is shorter than its measurement.
        """
        epoch = self.epoch(train)
        return epoch * ceil(self.budget / POINTS / epoch)


@dataclass(frozen=True)
class CrossEntropy:
    """The paper's loss l(y, f(x))."""

    cost: float = 1

    def prepare(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, ...]:
        return x, y

    def __call__(self, model: Model, *prepared: Tensor) -> Tensor:
        x, y = prepared
        return F.cross_entropy(model(x), y)


CROSS_ENTROPY = CrossEntropy()


@dataclass(frozen=True)
class Trained:
    """A trained copy of a model, its learning curve and the learning rate that made it."""

    model: nn.Module
    curve: list[Point]
    learning_rate: float


class Views(NamedTuple):
    """A student after two lengths of training; validation data chose the learning rate of each."""

    equal_gradients: Trained
    """When the budget was used up, what was spent before and the loss's cost counted."""
    equal_epochs: Trained
    """After as many steps as the budget has; the curve counts these alone."""


def fit(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    recipe: Recipe,
    learning_rate: float,
    *,
    seed: int,
    spent: float = 0,
    loss: TrainingLoss = CROSS_ENTROPY,
) -> Trained:
    """Train a copy with Adam on the ``loss``, its cost in gradient evaluations a batch, until the
    budget is used up; what is ``spent`` already comes off it.

    Measured on ``validation`` at the start, every `Recipe.interval` steps and at the end.  The
    batches and the loss's randomness are functions of the seed.  Raises ``ValueError`` when nothing
    of the budget is left, ``FloatingPointError`` when training diverges.
    """
    stops = (_affordable(recipe, spent, loss),)
    rates = (learning_rate,)
    ((trained,),) = _training(model, train, validation, recipe, rates, seed, loss, stops)
    return _priced(trained, spent, loss)


def tune(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    recipe: Recipe,
    *,
    seed: int,
    spent: float = 0,
    loss: TrainingLoss = CROSS_ENTROPY,
) -> Views:
    """`fit` at each learning rate, trained on to the length of the equal-epoch view; for each view the
    one whose final validation cross-entropy is lowest.

    Raises ``FloatingPointError`` when training diverges at every rate, else as `fit`.
    """
    stops = (_affordable(recipe, spent, loss), recipe.budget)
    rates = recipe.learning_rates
    views = _training(model, train, validation, recipe, rates, seed, loss, stops)
    gradients, epochs = (min(view, key=lambda t: t.curve[-1].cross_entropy) for view in views)
    return Views(_priced(gradients, spent, loss), epochs)


def _affordable(recipe: Recipe, spent: float, loss: TrainingLoss) -> int:
    """Steps that what is left of the budget pays for."""
    steps = int((recipe.budget - spent) / loss.cost)
    if steps < 1:
        raise ValueError(f"budget: {recipe.budget} gradient evaluations, {spent} spent before")
    return steps


def _priced(trained: Trained, spent: float, loss: TrainingLoss) -> Trained:
    """The curve against gradient evaluations in place of steps."""
    curve = [p._replace(gradients=spent + p.gradients * loss.cost) for p in trained.curve]
    return replace(trained, curve=curve)


def _training(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    recipe: Recipe,
    rates: Sequence[float],
    seed: int,
    loss: TrainingLoss,
    stops: tuple[int, ...],
) -> Iterator[list[Trained]]:
    """The students that have not diverged after each of these numbers of steps, curves against steps."""
    trained = students(model, rates)
    curves: dict[int, list[Point]] = {row: [] for row in range(len(rates))}
    batches = _batches(train, recipe.batch_size, seed)
    generator = Generator(train.x.device).manual_seed(seed)
    for step in range(stops[-1] + 1):
        if step > 0:
            trained.step(loss, loss.prepare(*next(batches), generator))
        if step % recipe.interval(train) and step not in stops:
            continue
        kept = []
        for row, curve in list(curves.items()):
            student = trained.student(row)
            try:
                end = [*curve, _measure(student, validation, step)]
            except FloatingPointError:
                del curves[row]
                trained.drop(row)
                continue
            if step % recipe.interval(train) == 0:
                curves[row] = end
            if step in stops:
                kept.append(Trained(copy.deepcopy(student).eval(), end, rates[row]))
        if not curves:
            raise FloatingPointError(f"training diverged at each rate of {tuple(rates)}")
        yield from [kept] * stops.count(step)


def _measure(model: nn.Module, validation: Examples, gradients: float) -> Point:
    return Point(gradients, *criteria.evaluate(model, validation))


def _batches(train: Examples, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless passes in fresh random orders; full batches only, so that each costs the same."""
    generator = Generator().manual_seed(seed)
    size = min(batch_size, len(train.x))
    while True:
        order = torch.randperm(len(train.x), generator=generator).to(train.y.device)
        for index in order[: len(order) // size * size].split(size):
            yield train.take(index)
