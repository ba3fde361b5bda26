"""A run directory as the report reads it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import schema
from experiments.errors import UsageError
from experiments.records import FORMAT, LOG, SETTINGS, Record


@dataclass(frozen=True)
class Stored:
    """What is on disk of a run; nothing of it is computed again."""

    path: Path
    settings: dict[str, Any]
    log: list[dict[str, Any]]
    """Each command that worked on a task, in order."""
    records: list[Record]
    lattice: list[Record]
    """Points and searches of an ablation."""
    reasons: dict[tuple[str, str, int], str]
    """Of the (task, method, seed) that could not be had."""

    @property
    def titles(self) -> dict[str, str]:
        return {entry["task"]: entry["title"] for entry in self.log}

    def of(self, task: str) -> list[Record]:
        """The task's records, methods in the order they were asked for."""
        order = list(dict.fromkeys(m for entry in self.log for m in entry["methods"]))
        task_records = [record for record in self.records if record["task"] == task]
        return sorted(task_records, key=lambda r: (r["seed"], order.index(r["method"])))

    def variance(self, task: str) -> dict[str, float]:
        path = self.path / f"{task}-variance.json"
        return schema.read(path, schema.VARIANCE) if path.exists() else {}

    def missing(self) -> list[tuple[str, str, int, str]]:
        """Task, method, seed and reason of all that was asked for and has no record."""
        asked = dict.fromkeys(
            (entry["task"], method, seed)
            for entry in self.log
            for method in entry["methods"]
            for seed in entry["seeds"]
        )
        done = {(r["task"], r["method"], r["seed"]) for r in self.records}
        return [
            (*cell, self.reasons.get(cell, "not finished")) for cell in asked if cell not in done
        ]


def read(path: Path) -> Stored:
    """Raises ``UsageError`` if ``path`` is no run directory, one of a format this code does not know, or one with a
    file that is not what a run writes.
    """
    try:
        settings = schema.read(path / SETTINGS, schema.SETTINGS)
        lines = (path / LOG).read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{path}: not a run directory of an experiment ({error})") from error
    log = list(_whole(path / LOG, lines))
    if lines and not log:
        raise UsageError(f"{path}: not a run directory of an experiment ({LOG} holds no command)")
    # Before it had a number it was the first.
    if (version := settings.get("format", 1)) not in range(1, FORMAT + 1):
        raise UsageError(f"{path}: its records are of format {version}, must be 1 to {FORMAT}")
    asked = {(entry["task"], method) for entry in log for method in entry["methods"]}
    all_records = _objects(path / "records", schema.cell)
    lattice = [record for record in all_records if "point" in record or "path" in record]
    records = [
        record
        for record in all_records
        if "method" in record and (record["task"], record["method"]) in asked
    ]
    reasons = {
        (note["task"], note["method"], note["seed"]): note["reason"]
        for note in _objects(path / "refusals", schema.REFUSAL)
    }
    return Stored(path, settings, log, records, lattice, reasons)


def runs_in(path: Path) -> list[Path]:
    """``path``, or the run directories at any depth in it where it is none itself but holds some."""
    inside = sorted(settings.parent for settings in path.rglob(SETTINGS))
    return inside if inside and not (path / SETTINGS).exists() else [path]


def _whole(path: Path, lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """The lines that a process that was killed has not torn."""
    for number, line in enumerate(lines, 1):
        if not _torn(line):
            yield schema.checked(line, f"{path}, line {number}", schema.LOG)


def _objects(folder: Path, check: schema.Check) -> Sequence[dict[str, Any]]:
    """The folder's JSON objects by name; a file that a process left torn counts as not there."""
    files = sorted(folder.glob("[!.]*.json"))
    return [schema.read(file, check) for file in files if not _torn(file.read_bytes())]


def _torn(text: bytes) -> bool:
    """Whether it is no JSON, as the beginning of one is none."""
    try:
        json.loads(text.decode("utf-8"))
    except json.JSONDecodeError:
        return True
    except (ValueError, RecursionError):
        return False  # something else, which is told when it is read
    return False
