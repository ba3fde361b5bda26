"""A study: every (method, seed) of a task, each trained on the same budget and kept as a record."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import phiopt
from experiments import records
from experiments.cell import cell
from experiments.claims import claimed, divide
from experiments.data import Splits
from experiments.errors import UsageError
from experiments.models import built
from experiments.records import Record, RunDirectory
from experiments.report import page
from experiments.task import Task
from experiments.train import tune
from phiopt import criteria

REFUSALS = (ValueError, NotImplementedError, RuntimeError, ArithmeticError)
"""What an initialisation that cannot be had in a task raises; the others go on without it."""


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
    all_records = run(task, methods, seeds, directory, device)
    if not all_records:
        print(f"{task.title}: no initialisation could be had", file=sys.stderr)
        return
    variance = prediction_variance(task, all_records, directory, device)
    shown = page.show(all_records, variance, task.title)
    page.write(directory.path, task.name, task.title, all_records, variance, shown, suffix)
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
    stored_records = {cell: directory.read(task.name, *cell) for cell in cells}
    missing = [cell for cell, record in stored_records.items() if record is None]
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
            stored_records[cell] = directory.read(task.name, method, seed)
        bar.update()

    with tqdm(
        total=len(cells), initial=len(cells) - len(missing), desc=task.name, disable=None
    ) as bar:
        divide(missing, settle)
    return [record for record in stored_records.values() if record is not None]


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

    if (module := stored()) is None:
        with claimed(path, wait=wait):
            if (module := stored()) is None:
                recipe = task.teacher_recipe
                views = tune(teacher, taught.train, taught.validation, recipe, seed=seed)
                records.save_module(views.equal_gradients.model, path)
                module = records.load_module(teacher, path)
    return module


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
        record, student = cell(task, method, seed, teacher, taught, splits)
    except REFUSALS as error:
        directory.refuse(task.name, method, seed, f"{type(error).__name__}: {error}")
        tqdm.write(f"{task.name}, seed {seed}: {method} left out: {error}", file=sys.stderr)
    else:
        directory.write(record, student)


def prediction_variance(
    task: Task, all_records: Sequence[Record], directory: RunDirectory, device: torch.device
) -> dict[str, float]:
    """Variance over seeds of the predictions on test data, for methods with two seeds or more.

    Empty where the seeds have test images of their own, on some of which others were trained.
    """
    variance: dict[str, float] = {}
    if not task.same_test:
        return variance
    for method in dict.fromkeys(record["method"] for record in all_records):
        method_records = [record for record in all_records if record["method"] == method]
        if len(method_records) > 1:
            students = [
                records.load_module(
                    task.student(), directory.student_path(task.name, method, record["seed"])
                ).to(device)
                for record in method_records
            ]
            test = task.splits(0).test
            variance[method] = criteria.prediction_variance(students, test)
    return variance
