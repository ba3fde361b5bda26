"""What is wrong with a command line, told before anything heavy is imported."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from math import comb
from pathlib import Path

from experiments.errors import UsageError
from experiments.names import DEVICES, Names

ROOT_VARIABLE = "PHIOPT_DATA"
CLASS_FOLDERS = "cifar10"
FASHION, CIFAR = "Fashion-MNIST", "CIFAR-10"
DATA_SETS = {FASHION: ("FashionMNIST/raw",), CIFAR: (CLASS_FOLDERS, "cifar-10-batches-py")}
"""Folders that hold each data set."""
MOST_SEEDS = 10_000
FINEST = 32
"""Parts that the ablation cuts the weight 1 into at most: 6,545 points."""
MOST_FOLDERS = 1_000
"""That are looked through for run directories."""
SETTINGS = "settings.json"


def seeds(text: str | None, default: int) -> list[int]:
    """Of ``--seeds``: a count, or a list."""
    if text is None:
        return list(range(default))
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        raise UsageError(
            f"--seeds {text}: a count such as 5 or a list such as 0,3,7 of integers >= 0"
        )
    if "," not in text:
        if numbers[0] > MOST_SEEDS:
            raise UsageError(
                f"--seeds {text}: a count must be at most {MOST_SEEDS:,}; one seed of its own has a comma, "
                f"as in {text},"
            )
        numbers = list(range(numbers[0]))
    if not numbers:
        raise UsageError(f"--seeds {text}: at least one seed is needed")
    if max(numbers) >= 2**63:
        raise UsageError(f"--seeds {text}: each must be below 2**63")
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--seeds {text}: repeated; each seed counts once")
    return numbers


def names(option: str, text: str, known: Sequence[str] = ()) -> list[str]:
    """Of a list separated by commas, each once; of those ``known``, where these are given."""
    given = [name.strip() for name in text.split(",")]
    if len(set(given)) < len(given):
        raise UsageError(f"{option} {text}: repeated; each may be named once")
    unknown = [name for name in given if known and name not in known]
    if unknown:
        raise UsageError(
            f"{option} {text}: unknown {', '.join(unknown)!r}; choose from {', '.join(known)}"
        )
    return given


def tasks(text: str | None, known: Names) -> list[str] | None:
    """Of ``--tasks``; None where all are meant, or those of the scale."""
    if text is None or text.strip() == "all":
        return None if text is None else ["all"]
    return names("--tasks", text, known.tasks)


def methods(text: str | None, known: Names) -> list[str]:
    """Of ``--methods``: those named, or all, or those that the paper compares."""
    if text is None or text.strip() == "all":
        return list(known.compared if text is None else known.methods)
    return names("--methods", text, known.methods)


def device(text: str) -> None:
    """Of ``--device``: whether it is spelled as one; whether it is there, PyTorch knows."""
    if not re.fullmatch(rf"({'|'.join(DEVICES)})(:(0|[1-9]\d?))?", text):
        raise UsageError(
            f"--device {text}: not usable here (must be cpu, cuda, cuda:1, mps or the like)"
        )


def number_of_points(resolution: int) -> int:
    """Of the lattice on the simplex of four weights."""
    return comb(resolution + 3, 3)


def resolution(value: int) -> None:
    """Of the ablation's lattice."""
    if value < 1:
        raise UsageError(f"--resolution {value}: at least 1")
    if value > FINEST:
        raise UsageError(
            f"--resolution {value}: at most {FINEST}, which makes {number_of_points(FINEST):,} points"
        )


def data_root(given: Path | None) -> Path:
    """``--data``, else the environment variable PHIOPT_DATA."""
    if given is not None:
        return given
    if named := os.environ.get(ROOT_VARIABLE):
        return Path(named)
    raise UsageError(
        "--data: no data root given. Name a folder in torchvision's layout with --data ROOT or "
        f"{ROOT_VARIABLE}; --download lets torchvision fetch what is missing."
    )


def data(given: Path | None, *, download: bool, sets: Sequence[str] = ()) -> None:
    """Of ``--data`` or $PHIOPT_DATA: a folder that has the folders of these data sets, or ones to be made."""
    folder = data_root(given)
    if download and not os.path.exists(folder):
        return
    if not os.path.isdir(folder):
        what = "is a file" if os.path.exists(folder) else "does not exist; --download makes it"
        raise UsageError(f"--data {folder}: {what}, must be a folder in torchvision's layout")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(f"--data {folder}: cannot be read")
    for name in () if download else sets:
        places = [folder / place for place in DATA_SETS[name]]
        if not any(os.path.isdir(place) for place in places):
            raise UsageError(
                f"--data {folder}: {name} is not there. Its files belong in {' or '.join(map(str, places))}; "
                "--download lets torchvision fetch them."
            )


def writable(folder: Path) -> None:
    """Of ``--out``: a folder, or a place where one can be made, and settings that can be read."""
    there = next(part for part in (folder, *folder.absolute().parents) if os.path.lexists(part))
    if not os.path.isdir(there):
        raise UsageError(f"--out {folder}: cannot be written ({there} is no folder)")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"--out {folder}: cannot be written (no permission in {there})")
    if os.path.exists(folder / SETTINGS):
        _object(f"--out {folder}", folder / SETTINGS)


def reported(runs: Sequence[Path]) -> None:
    """Of the RUNS of a report: folders of readable run directories."""
    for run in runs:
        if os.path.exists(run) and not os.path.isdir(run):
            raise UsageError(f"RUNS {run}: is a file, must be a run directory or a folder of them")
        if not os.path.exists(run):
            raise UsageError(f"RUNS {run}: does not exist, must be a run directory")
        seen = False
        for directory in _directories(run):
            seen = True
            _object(f"RUNS {run}", directory / SETTINGS)
            for record in sorted((directory / "records").glob("[!.]*.json")):
                _object(f"RUNS {run}", record, torn=True)
        if not seen:
            raise UsageError(
                f"RUNS {run}: not a run directory of an experiment, and holds none (no {SETTINGS})"
            )


def _directories(root: Path) -> Iterator[Path]:
    """Run directories: the root, or those at any depth in it."""
    left, seen = [root], 0
    while left:
        folder = left.pop()
        seen += 1
        if seen > MOST_FOLDERS:
            raise UsageError(
                f"RUNS {root}: holds more than {MOST_FOLDERS:,} folders; name the run directories"
            )
        if os.path.exists(folder / SETTINGS):
            yield folder
            continue
        try:
            with os.scandir(folder) as entries:
                left += [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]
        except OSError as error:
            raise UsageError(f"RUNS {root}: {folder} cannot be read ({error.strerror})") from error


def _object(name: str, path: Path, *, torn: bool = False) -> None:
    """Refuse a file that is no JSON object; one that a killed process left ``torn`` counts as not there."""
    if not os.path.isfile(path):
        raise UsageError(f"{name}: {path} is no file")
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{name}: {path} cannot be read ({error.strerror})") from error
    except json.JSONDecodeError as error:
        if torn:
            return
        raise UsageError(f"{name}: {path} is not valid JSON ({error})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: {path} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise UsageError(f"{name}: {path} holds {type(value).__name__}, must be a JSON object")
