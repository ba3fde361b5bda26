"""One cell of a study: one student, initialised by one method, trained and measured."""

import time
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from experiments import measures, records
from experiments.data import Examples, Splits
from experiments.methods import Growth
from experiments.records import Record
from experiments.statistics import area_under_curve
from experiments.task import Task
from experiments.train import CROSS_ENTROPY, Point, Trained, tune
from phiopt import criteria


def cell(
    task: Task, method: str, seed: int, teacher: nn.Module, taught: Splits, splits: Splits
) -> tuple[Record, nn.Module]:
    """Initialise, train and measure one student; the test part is used here and nowhere else."""
    began = time.perf_counter()
    initial = task.registry[method](_given(task, teacher, taught, splits), seed)
    recipe = task.student_recipe
    if initial.learning_rates is not None:
        recipe = replace(recipe, learning_rates=initial.learning_rates)
    ours, longer = tune(
        initial.student,
        splits.train,
        splits.validation,
        recipe,
        # Training has its own order of batches, the same for every method of a seed.
        seed=seed,
        spent=initial.gradients,
        # Some rivals are a training loss.
        loss=getattr(initial, "loss", CROSS_ENTROPY),
    )
    curve = ours.curve
    if initial.start is not None:
        # Until φ is solved, the model one has is its start: a step, and no way from one to the other.
        waiting = Point(0, *criteria.evaluate(initial.start, splits.validation))
        curve = [waiting, waiting._replace(gradients=curve[0].gradients), *curve]
    low, high = task.pixels
    corruption = criteria.corruption_curve(ours.model, splits.test, low=low, high=high)
    main = _measures(ours.model, splits.test, curve, corruption, task)
    beside = measures.others(ours.model, splits.test, low=low, high=high)
    # Where nothing was spent the two views are one.
    test = main if longer.model is ours.model else _measured_briefly(longer, splits.test, task)
    record: Record = {
        "task": task.name,
        "method": method,
        "seed": seed,
        "teacher_seed": task.drawn(seed),
        "examples": len(splits.train.x),
        "learning_rate": ours.learning_rate,
        "initialisation_gradients": initial.gradients,
        "epoch": recipe.epoch(splits.train),
        "curve": _plain(curve),
        "test": main | beside,
        "corruption": corruption._asdict(),
        "equal_epochs": {
            "learning_rate": longer.learning_rate,
            "curve": _plain(longer.curve),
            "test": test,
        },
        "solution": initial.report,
        "seconds": time.perf_counter() - began,
        "environment": records.environment(splits.train.x.device),
    }
    return record, ours.model


def _given(task: Task, teacher: nn.Module, taught: Splits, splits: Splits) -> Growth:
    """What a method is given to initialise the student from."""
    return Growth(
        teacher=teacher,
        student=task.student,
        data=taught.train,
        classes=task.classes,
        theta=task.theta,
        phi=task.phi,
        batch_size=task.student_recipe.batch_size,
        lift=task.lift,
        noise=task.noise,
        d2=(splits.train, splits.validation),
    )


def _measured_briefly(trained: Trained, test: Examples, task: Task) -> dict[str, float]:
    """The student that was trained for as many steps as every other, whatever came before."""
    low, high = task.pixels
    corruption = criteria.corruption_curve(trained.model, test, (0, 30), low=low, high=high)
    return _measures(trained.model, test, trained.curve, corruption, task)


def _plain(curve: Sequence[Point]) -> list[dict[str, float]]:
    return [point._asdict() for point in curve]


def _measures(
    student: nn.Module,
    test: Examples,
    curve: Sequence[Point],
    corruption: criteria.CorruptionCurve,
    task: Task,
) -> dict[str, float]:
    """The main table's columns for one student: test data, but for the area under the curve."""
    clean, noisy = (corruption.percentages.index(percentage) for percentage in (0, 30))
    return {
        "accuracy": corruption.accuracy[clean],
        "cross_entropy": corruption.cross_entropy[clean],
        "area": area_under_curve([p.gradients for p in curve], [p.accuracy for p in curve]),
        "accuracy_30": corruption.accuracy[noisy],
        "robustness": criteria.robustness(student, test, task.noise),
    }
