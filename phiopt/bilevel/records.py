"""The trials of a search in a directory. A search that was killed goes on from them.

    search.json                      what the search was called with
    trials/0000.json, ...            one file for each trial, written when it is done
    solutions/0000.safetensors       the solution of the best trial until now

Each file is written whole or not at all, a solution before its trial.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phiopt._described import checksum
from phiopt._files import locked, write_text
from phiopt._json import Field, parsed
from phiopt._types import Params
from phiopt.bilevel.trial import Trial
from phiopt.solve import Solution, Status

FORMAT = 2
DERIVATIVE = "derivative"
"""The key of a trial's derivative in its file."""
SETTINGS = "search.json"
LISTED = 3
"""Differences that an error lists."""


class RecordError(ValueError):
    """The directory belongs to another search, or a file in it is damaged."""


@dataclass(frozen=True)
class Record:
    """A trial, and the derivative of E at its point by name: a number, or four for λ. None: it was not taken."""

    trial: Trial
    gradient: dict[str, float | list[float]] | None = None

    @property
    def point(self) -> Params:
        """The trial's point, as tensors."""
        trial = self.trial
        named = {"lambdas": list(trial.lambdas), "delta": trial.delta, "theta": trial.theta}
        return {name: _tensor(value) for name, value in named.items() if value is not None}

    @property
    def derivative(self) -> Params | None:
        """The derivative as tensors, or None."""
        if self.gradient is None:
            return None
        return {name: _tensor(value) for name, value in self.gradient.items()}

    def with_derivative(self, derivative: Params) -> Record:
        """This record, with the derivative."""
        numbers: dict[str, float | list[float]]
        numbers = {name: value.tolist() for name, value in derivative.items()}
        return Record(replace(self.trial, differentiated=True), numbers)


@dataclass
class Records:
    """The records of one search. Without a ``folder`` nothing is kept."""

    folder: Path | None = None
    student: nn.Module | None = None
    records: dict[int, Record] = field(default_factory=dict)

    @property
    def best(self) -> int | None:
        """The number of the first trial with the lowest E, whose solution is kept."""
        finite = {n: r.trial.outer for n, r in self.records.items() if r.trial.outer < inf}
        return min(finite, key=lambda n: (finite[n], n)) if finite else None

    def at(self, number: int, lambdas: tuple[float, ...], rest: dict[str, Any]) -> Record | None:
        """The record of a trial; None if the trial has not been made.

        Raises:
            RecordError: The record belongs to another point.
        """
        record = self.records.get(number)
        if record is None:
            return None
        trial = record.trial
        asked = replace(trial, lambdas=lambdas, **rest)
        if trial != asked:
            raise RecordError(
                f"directory: {self._trial(number)} is of {_point(trial)}, but the search now asks for "
                f"{_point(asked)}: it is another version's, or not the same each time. Choose another "
                "directory"
            )
        return record

    def keep(self, number: int, record: Record, solution: Solution | None = None) -> None:
        """Write a record. A solution, that of the best trial so far, is written first."""
        if self.folder is None or self.records.get(number) == record:
            return
        if solution is not None:
            solution.save(self._solution(number))
        write_text(self._trial(number), _text(record))
        self.records[number] = record
        self.tidy()

    def tidy(self) -> None:
        """Remove the solutions of trials that are no longer the best."""
        best = None if self.best is None else self._solution(self.best)
        for path in self._solution(0).parent.glob("*.safetensors"):
            if path != best:
                path.unlink()

    def solution(self, number: int) -> Solution | None:
        """The solution of the best trial; None if its file is not there.

        Raises:
            RecordError: The file is damaged, or belongs to another student.
        """
        path = self._solution(number)
        try:
            return None if self.student is None else Solution.load(path, self.student)
        except FileNotFoundError:
            return None
        except ValueError as error:
            reason = str(error).removeprefix("path: ")
            raise RecordError(f"directory: {reason}; remove it to have it solved again") from error

    def refuse(self, number: int, was: float, now: float) -> RecordError:
        """The error for a second computation that gives another number."""
        return RecordError(
            f"directory: {self._trial(number)} has outer {was!r}, but computed again it is {now!r}: the "
            "data, the machine, the number of threads or a library has changed, or a file was "
            "changed. Go on where the search began, or choose another directory"
        )

    def _trial(self, number: int) -> Path:
        return Path(self.folder or "") / "trials" / f"{number:04}.json"

    def _solution(self, number: int) -> Path:
        return Path(self.folder or "") / "solutions" / f"{number:04}.safetensors"


@contextmanager
def opened(folder: Path | None, arguments: dict[str, str], student: nn.Module) -> Iterator[Records]:
    """The records of the search with these arguments. No other process can open them meanwhile.

    Raises:
        RecordError: The directory holds another search, or a damaged file.
        OSError: The directory cannot be written.
    """
    if folder is None:
        yield Records()
        return
    with locked(folder / ".lock"):
        _begin(folder, arguments)
        for part in ("trials", "solutions"):  # half-written files of a killed process
            for unfinished in (folder / part).glob(".*"):
                unfinished.unlink()
        records = {}
        for path in sorted((folder / "trials").glob("*.json")):
            if re.fullmatch(r"\d{4,}", path.stem):
                records[int(path.stem)] = _read(path)
        search = Records(folder, student, records)
        search.tidy()
        yield search


def _begin(folder: Path, arguments: dict[str, str]) -> None:
    """Write the arguments, or compare them with those of the search in the folder."""
    path = folder / SETTINGS
    if not path.exists():
        if any((folder / "trials").glob("*.json")):
            raise RecordError(
                f"directory: {folder} holds trials but no {SETTINGS}, which describes the search; "
                "choose another directory"
            )
        write_text(path, json.dumps({"format": FORMAT, "arguments": arguments}, indent=1))
        return
    try:
        parts = parsed(path.read_bytes(), f"directory: {path}").members(["format", "arguments"])
        if parts["format"].whole(0) != FORMAT:
            raise parts["format"].wrong(f"{FORMAT}, the format of this phiopt")
        before = {name: item.text() for name, item in parts["arguments"].members().items()}
    except ValueError as error:
        raise RecordError(str(error)) from error
    differing = [n for n in before | arguments if before.get(n) != arguments.get(n)]
    if differing:
        changes = [
            f"{name} was {before.get(name, 'not there')}, is {arguments.get(name, 'not there')}"
            for name in differing[:LISTED]
        ]
        more = f"; and {len(differing) - LISTED} more" * (len(differing) > LISTED)
        raise RecordError(
            f"directory: {folder} holds a search with other arguments: {'; '.join(changes)}{more}. "
            "Give the same, or choose another directory"
        )


def _text(record: Record) -> str:
    status = record.trial.status
    values = {
        **asdict(record.trial),
        "status": status and status.name,
        DERIVATIVE: record.gradient,
    }
    del values["differentiated"]  # the derivative itself says it
    return json.dumps({**values, "checksum": checksum([json.dumps(values)])}, indent=1)


def _read(path: Path) -> Record:
    """
    Raises:
        RecordError: The file is not what `Records.keep` wrote.
    """
    try:
        return _record(parsed(path.read_bytes(), f"directory: {path}"))
    except ValueError as error:
        raise RecordError(f"{error}; remove it to have the trial done again") from error


def _record(about: Field) -> Record:
    names = [DERIVATIVE, *(f.name for f in fields(Trial) if f.name != "differentiated")]
    parts = about.members([*names, "checksum"])
    for name in parts.keys() - {*names, "checksum"}:
        raise parts[name].wrong("left out: a trial has no such field")
    weights = parts["lambdas"].items()
    if len(weights) != 4:
        raise parts["lambdas"].wrong("four numbers")
    status, gradient = parts["status"], None
    if parts[DERIVATIVE].value is not None:
        gradient = {name: _number(item) for name, item in parts[DERIVATIVE].members().items()}
        point = {"lambdas", *(n for n in ("delta", "theta") if parts[n].value is not None)}
        lengths = {name: isinstance(value, list) for name, value in gradient.items()}
        if lengths != {name: name == "lambdas" for name in point}:
            raise parts[DERIVATIVE].wrong(f"numbers for {', '.join(sorted(point))}")
    outer = float(parts["outer"].number())
    if outer != outer:
        raise parts["outer"].wrong("a number or infinity")
    trial = Trial(
        lambdas=tuple(float(weight.number()) for weight in weights),
        delta=_optional(parts["delta"]),
        theta=_optional(parts["theta"]),
        outer=outer,
        status=None if status.value is None else Status[status.text(Status.__members__)],
        gradients=parts["gradients"].whole(0),
        differentiated=gradient is not None,
        again=parts["again"].flag(),
        error=None if parts["error"].value is None else parts["error"].text(),
    )
    values = {name: item for name, item in about.value.items() if name != "checksum"}
    if checksum([json.dumps(values)]) != parts["checksum"].text():
        raise parts["checksum"].wrong("that of the other fields: some were changed")
    return Record(trial, gradient)


def _number(item: Field) -> float | list[float]:
    """A number, or four."""
    if not isinstance(item.value, list):
        return float(item.number())
    if len(item.value) != 4:
        raise item.wrong("a number or four")
    return [float(part.number()) for part in item.items()]


def _optional(item: Field) -> float | None:
    return None if item.value is None else float(item.number())


def _tensor(value: float | list[float]) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def _point(trial: Trial) -> str:
    parts = [f"λ = {trial.lambdas}"]
    parts += [f"{n} = {v}" for n, v in (("δ", trial.delta), ("θ", trial.theta)) if v is not None]
    return ", ".join(parts) + " again" * trial.again
