"""Results on disk, one JSON record for each (task, method, seed), so that a run can be resumed."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from experiments import schema
from experiments.claims import claimed
from experiments.errors import UsageError
from phiopt._files import atomic, differences, write_text

Record: TypeAlias = dict[str, Any]

FORMAT = 3
"""Of records: 2 holds the measures beside the paper's and the equal-epoch view; in 3 the curve of every
initialisation that spends gradients begins with its start, which stays until they are spent."""
LOG = "log.jsonl"
SETTINGS = "settings.json"


class RunDirectory:
    """A directory of records made with the same settings.

    Raises `UsageError` if the directory cannot be written, or holds a run with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        # Through JSON, so that tuples compare equal to what is read back.
        settings = json.loads(json.dumps(settings))
        stored = path / SETTINGS
        try:
            with claimed(stored, wait=True):  # who comes second sees what the first wrote
                if not stored.exists():
                    write_text(stored, json.dumps(settings, indent=2, sort_keys=True))
                where = f"--out {path}: {stored}"
                before = schema.checked(stored.read_bytes(), where, schema.table(schema.anything))
        except OSError as error:
            raise UsageError(f"--out {path}: cannot be written ({error})") from error
        if before != settings:
            raise UsageError(
                f"--out {path}: holds a run with other settings. {_difference(before, settings)} "
                "Choose another --out or remove this one."
            )

    def record_path(self, task: str, method: str, seed: int) -> Path:
        return self.path / "records" / f"{task}-{method}-{seed}.json"

    def student_path(self, task: str, method: str, seed: int) -> Path:
        return self.path / "students" / f"{task}-{method}-{seed}.safetensors"

    def read(self, task: str, method: str, seed: int) -> Record | None:
        """The record, or None where there is no valid one and the work is to be done."""
        try:
            record: Record = schema.read(self.record_path(task, method, seed), schema.RECORD)
        except (FileNotFoundError, UsageError):
            return None
        named = {"task": task, "method": method, "seed": seed}
        if any(record[key] != value for key, value in named.items()):
            return None
        return record if _is_whole(self.student_path(task, method, seed)) else None

    def write(self, record: Record, student: nn.Module) -> None:
        """The student first: a record promises that it is there."""
        cell = (record["task"], record["method"], record["seed"])
        save_module(student, self.student_path(*cell))
        # NaN is not JSON, and no result either.
        text = json.dumps(record, indent=1, allow_nan=False)
        write_text(self.record_path(*cell), text)
        self.refusal_path(*cell).unlink(missing_ok=True)

    def refusal_path(self, task: str, method: str, seed: int) -> Path:
        return self.path / "refusals" / f"{task}-{method}-{seed}.json"

    def refuse(self, task: str, method: str, seed: int, reason: str) -> None:
        """Note why there is no record."""
        note = {"task": task, "method": method, "seed": seed, "reason": reason}
        write_text(self.refusal_path(task, method, seed), json.dumps(note, indent=1))

    def refused_at(self, task: str, method: str, seed: int) -> int:
        """When it was noted, to tell whether it was again; 0: never."""
        try:
            return self.refusal_path(task, method, seed).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def log(self, task: str, title: str, methods: Sequence[str], seeds: Sequence[int]) -> None:
        """Note the command and what it is to run, in one line."""
        note = {
            "command": shlex.join(["python", "-m", "experiments", *sys.argv[1:]]),
            "task": task,
            "title": title,
            "methods": list(methods),
            "seeds": list(seeds),
        }
        path = self.path / LOG
        with claimed(path, wait=True):
            # A process that was killed may have left half a line.
            torn = path.exists() and not (b"\n" + path.read_bytes()).endswith(b"\n")
            with open(path, "a", encoding="utf-8") as log:
                log.write("\n" * torn + json.dumps(note) + "\n")

    def student(self, record: Record, factory: Callable[[], nn.Module]) -> nn.Module:
        """The trained student of a record."""
        path = self.student_path(record["task"], record["method"], record["seed"])
        return load_module(factory(), path)

    def teacher_path(self, task: str, seed: int) -> Path:
        return self.path / "teachers" / f"{task}-{seed}.safetensors"


def save_module(module: nn.Module, path: Path) -> None:
    state = {name: value.detach().contiguous().cpu() for name, value in module.state_dict().items()}
    # Not its save_file, whose files nobody else may read and whose errors are no OSError.
    with atomic(path) as temporary:
        temporary.write_bytes(save(state))


def load_module(module: nn.Module, path: Path) -> nn.Module:
    """``module`` with the stored values, in evaluation mode.

    Raises ``UsageError`` if the file is damaged or of another module, which then keeps its values.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UsageError(f"{path}: no safetensors file ({error}); remove it") from error
    state = module.state_dict()
    expected, actual = (
        {name: (*value.shape, str(value.dtype)) for name, value in values.items()}
        for values in (state, tensors)
    )
    wrong = [
        *differences("it", expected, actual),
        *(f"it has {n} too" for n in actual.keys() - expected),
    ]  # type: ignore[arg-type]
    if wrong:
        raise UsageError(f"{path}: of another module, {wrong[0]}; remove it")
    module.load_state_dict(tensors)
    return module.eval()


def _is_whole(path: Path) -> bool:
    """Whether it is there, with all the bytes that its header tells of."""
    try:
        with safe_open(path, "pt"):
            return True
    except (OSError, SafetensorError):
        return False


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs, another experiment or scale first; long values around the place."""
    old, new = _leaves(before), _leaves(now)
    differing = [key for key in old | new if old.get(key) != new.get(key)]
    differing.sort(key=lambda key: ("." in key, key))
    pairs = ((key, repr(old.get(key)), repr(new.get(key))) for key in differing)
    return " ".join(f"{key}: {_excerpt(a, b)} there, {_excerpt(b, a)} now." for key, a, b in pairs)


def _excerpt(text: str, other: str, length: int = 60) -> str:
    """The part of ``text`` where it begins to differ from ``other``."""
    if len(text) <= length:
        return text
    alike = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), 0)
    first = max(0, alike - length // 3)
    part = text[first : first + length]
    return f"{'…' * (first > 0)}{part}{'…' * (first + length < len(text))}"


def _leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The innermost values by their dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in settings.items():
        inner = isinstance(value, dict)
        leaves |= _leaves(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return leaves


def environment(device: torch.device) -> dict[str, str]:
    """What a figure has to be read with: versions and the device's name."""
    import platform

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": f"{device.type}: {name}",
    }
