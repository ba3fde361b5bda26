"""A study: every (method, seed) of a task, each trained on the same budget and kept as a record."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import nn
from tqdm import tqdm

import phiopt
from experiments import measures, records
from experiments.claims import claimed, divide
from experiments.data import Examples, Splits
from experiments.errors import UsageError
from experiments.methods import METHODS as PAPER
from experiments.methods import Growth, Initialised, Phi
from experiments.models import built
from experiments.records import Record, RunDirectory
from experiments.report import page
from experiments.rivals import RIVALS
from experiments.statistics import area_under_curve
from experiments.train import CROSS_ENTROPY, Point, Recipe, Trained, tune
from experiments.weights import WEIGHTED
from phiopt import criteria
from phiopt._types import Lift
from phiopt.objective.neighbourhood import Neighbourhood

Method: TypeAlias = Callable[[Growth, int], Initialised]

METHODS: dict[str, Method] = PAPER | WEIGHTED | RIVALS
"""Every initialisation by name."""

REFUSALS = (ValueError, NotImplementedError, RuntimeError, ArithmeticError)
"""What an initialisation that cannot be had in a task raises; the others go on without it."""


@dataclass(frozen=True)
class Task:
    """What is grown, on which data, and how long it is trained."""

    name: str
    title: str
    teacher: Callable[[], nn.Module]
    student: Callable[[], nn.Module]
    splits: Callable[[int], Splits]
    """D2 of a seed."""
    teacher_recipe: Recipe
    student_recipe: Recipe
    phi: Phi
    theta: float
    lift: Lift | None = None
    """ψ; None: inferred from D1 and the student."""
    classes: tuple[int, ...] | None = None
    """Student output of each of the teacher's classes; None: the first ones."""
    teacher_splits: Callable[[int], Splits] | None = None
    """D1 of a seed; None: the examples of D2 that have ``classes``."""
    methods: Mapping[str, Method] | None = None
    """What is compared, by name; None: `METHODS`."""
    pixels: tuple[float, float] = (0.0, 1.0)
    """Least and largest value of D2's inputs, between which a corrupted pixel lies."""
    criterion: Neighbourhood | None = None
    """U_δ of the criterion L3^δ(w*, D2); None: the one that φ draws from."""
    shares_teacher: str | None = None
    """Tasks of one name here have one teacher; None: the task's own."""
    one_teacher: bool = False
    """All seeds have the parts and the teacher of seed 0: they are seeds of the student alone."""
    same_test: bool = True
    """All seeds are measured on the same images, on which none of them was trained."""

    @property
    def registry(self) -> Mapping[str, Method]:
        return METHODS if self.methods is None else self.methods

    def drawn(self, seed: int) -> int:
        """The seed of the parts and the teacher that the students of ``seed`` have."""
        return 0 if self.one_teacher else seed

    @property
    def noise(self) -> Neighbourhood:
        """U_δ around D2's inputs."""
        return self.criterion or self.phi.neighbourhood

    def taught(self, seed: int, splits: Splits) -> Splits:
        """D1 of a seed whose D2 is ``splits``, on the same device; its test part is not used."""
        if self.teacher_splits is not None:
            return self.teacher_splits(seed).to(splits.train.x.device)
        if self.classes is None:
            return splits
        known, held_out = (part.of(self.classes) for part in (splits.train, splits.validation))
        return splits._replace(train=known, validation=held_out)


def settings(experiment: str, tasks: Sequence[Task]) -> dict[str, Any]:
    """What records of one directory must have in common, as JSON can hold it."""
    return {
        "experiment": experiment,
        "format": records.FORMAT,
        "phiopt": phiopt.__version__,
        **{
            task.name: {
                "title": task.title,
                "teacher": str(task.teacher()),
                "student": str(task.student()),
                "classes": task.classes,
                "lift": str(task.lift),
                "pixels": task.pixels,
                "teacher_recipe": asdict(task.teacher_recipe),
                "student_recipe": asdict(task.student_recipe),
                "theta": task.theta,
                "phi": str(task.phi),
            }
            for task in tasks
        },
    }


def finish(
    task: Task,
    methods: Sequence[str],
    seeds: Sequence[int],
    directory: RunDirectory,
    device: torch.device,
    suffix: str,
) -> None:
    """Run what is missing, print the tables and write the report beside the records."""
    directory.log(task.name, task.title, methods, seeds)
    found = run(task, methods, seeds, directory, device)
    if not found:
        print(f"{task.title}: no initialisation could be had", file=sys.stderr)
        return
    variance = prediction_variance(task, found, directory, device)
    shown = page.show(found, variance, task.title)
    page.write(directory.path, task.name, task.title, found, variance, shown, suffix)
    print(f"figures, tables and records of {task.name}: {directory.path}")


def run(
    task: Task,
    methods: Sequence[str],
    seeds: Sequence[int],
    directory: RunDirectory,
    device: torch.device,
) -> list[Record]:
    """All records of the task; those that are on disk are not made again.

    Processes that run at the same time divide what is missing, and each returns all of it.  An
    initialisation that raises one of `REFUSALS` is left out, with a line on stderr and a note in the
    directory; the next run tries it again.
    """
    cells = [(method, seed) for seed in seeds for method in methods]
    found = {cell: directory.read(task.name, *cell) for cell in cells}
    missing = [cell for cell, record in found.items() if record is None]
    refusals = {cell: directory.refused_at(task.name, *cell) for cell in missing}

    @lru_cache(maxsize=1)
    def data(seed: int) -> tuple[Splits, Splits]:
        splits = task.splits(seed).to(device)
        return splits, task.taught(seed, splits)

    @lru_cache(maxsize=1)
    def teacher(seed: int, wait: bool) -> nn.Module | FloatingPointError:
        try:
            return trained_teacher(task, data(seed)[1], seed, directory, wait=wait)
        except FloatingPointError as error:  # kept: it would diverge for the next method too
            return FloatingPointError(f"teacher: {error}")

    def settle(cell: tuple[str, int], wait: bool) -> None:
        method, seed = cell
        bar.set_postfix_str(f"seed {seed}: {'waiting for another process' if wait else method}")
        with claimed(directory.record_path(task.name, method, seed), wait=wait):
            # Another process may have been here since.
            refused = directory.refused_at(task.name, method, seed) != refusals[cell]
            if not refused and directory.read(task.name, method, seed) is None:
                drawn = task.drawn(seed)
                _make(task, method, seed, teacher(drawn, wait), *data(drawn), directory)
            # As the disk has it, so that every process and a resumed run report the same.
            found[cell] = directory.read(task.name, method, seed)
        bar.update()

    with tqdm(
        total=len(cells), initial=len(cells) - len(missing), desc=task.name, disable=None
    ) as bar:
        divide(missing, settle)
    return [record for record in found.values() if record is not None]


def trained_teacher(
    task: Task, taught: Splits, seed: int, directory: RunDirectory, *, wait: bool = True
) -> nn.Module:
    """The teacher that all methods of a seed share, kept on disk for other processes and later runs.

    Raises ``filelock.Timeout`` if another process is training it and ``wait`` is false.
    """
    path = directory.teacher_path(task.shares_teacher or task.name, seed)
    teacher = built(task.teacher, seed).to(taught.train.x.device)

    def stored() -> nn.Module | None:
        """None where it is missing, damaged or of another task; it is made again then."""
        try:
            return records.load_module(teacher, path)
        except (FileNotFoundError, UsageError):
            return None

    if (found := stored()) is None:
        with claimed(path, wait=wait):
            if (found := stored()) is None:
                recipe = task.teacher_recipe
                views = tune(teacher, taught.train, taught.validation, recipe, seed=seed)
                records.save_module(views.equal_gradients.model, path)
                found = records.load_module(teacher, path)
    return found


def _make(
    task: Task,
    method: str,
    seed: int,
    teacher: nn.Module | FloatingPointError,
    splits: Splits,
    taught: Splits,
    directory: RunDirectory,
) -> None:
    """Write one record, or why there is none."""
    try:
        if isinstance(teacher, FloatingPointError):
            raise teacher
        record, student = _cell(task, method, seed, teacher, taught, splits)
    except REFUSALS as error:
        directory.refuse(task.name, method, seed, f"{type(error).__name__}: {error}")
        tqdm.write(f"{task.name}, seed {seed}: {method} left out: {error}", file=sys.stderr)
    else:
        directory.write(record, student)


def _cell(
    task: Task, method: str, seed: int, teacher: nn.Module, taught: Splits, splits: Splits
) -> tuple[Record, nn.Module]:
    """Initialise, train and measure one student; the test part is used here and nowhere else."""
    began = time.perf_counter()
    growth = Growth(
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
    initial = task.registry[method](growth, seed)
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


def prediction_variance(
    task: Task, found: Sequence[Record], directory: RunDirectory, device: torch.device
) -> dict[str, float]:
    """Variance over seeds of the predictions on test data, for methods with two seeds or more.

    Empty where the seeds have test images of their own, on some of which others were trained.
    """
    variance: dict[str, float] = {}
    if not task.same_test:
        return variance
    for method in dict.fromkeys(record["method"] for record in found):
        mine = [record for record in found if record["method"] == method]
        if len(mine) > 1:
            students = [
                records.load_module(
                    task.student(), directory.student_path(task.name, method, record["seed"])
                ).to(device)
                for record in mine
            ]
            test = task.splits(0).test
            variance[method] = criteria.prediction_variance(students, test)
    return variance
