"""The commands ``phiopt map`` and ``phiopt grow``."""

from __future__ import annotations

import ast
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from typer.core import TyperGroup

from phiopt._files import new_file
from phiopt.cli.optimizer import carried_state
from phiopt.cli.sources import Source, UsageError, source_of
from phiopt.growth import GrowthMap, Verification, compare
from phiopt.growth import grow as grown_model
from phiopt.growth.registry import PRESERVING


class Commands(TyperGroup):
    """The group of commands. A mistake is answered with one line and exit status 2."""

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except (ValueError, TypeError, OSError) as error:  # phiopt's, and of a user's files
            _fail(str(error))
        except Exception as error:
            if not hasattr(error, "format_message"):  # Typer's own errors have it
                raise
            _fail(error.format_message())
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False)

Teacher = Annotated[
    str,
    typer.Argument(
        help="A timm name, a model type of transformers, or a folder or file with a configuration."
    ),
]
Student = Annotated[str, typer.Argument(help="The larger model, likewise.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", help="NAME=VALUE for both models, as num_classes=10; repeatable."),
]
TeacherOptions = Annotated[
    list[str] | None, typer.Option("--teacher-option", help="NAME=VALUE for the teacher.")
]
StudentOptions = Annotated[
    list[str] | None, typer.Option("--student-option", help="NAME=VALUE for the student.")
]
Architecture = Annotated[
    str | None,
    typer.Option(help="Class of both transformers models, as AutoModelForCausalLM."),
]
Correspondences = Annotated[
    list[str] | None,
    typer.Option("--correspondence", help="TEACHER=STUDENT, two modules that belong together."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write, new or empty.")]
SaveMap = Annotated[Path | None, typer.Option(help="A file for the map.")]
TeacherWeights = Annotated[
    Path | None,
    typer.Option(help="The teacher's safetensors file; the teacher's own folder when left out."),
]
Optimizer = Annotated[
    Path | None,
    typer.Option(help="The teacher's optimiser: a torch checkpoint of its state_dict()."),
]


@app.callback()
def phiopt() -> None:
    """Grow a trained model of timm or transformers into a larger one."""


@app.command("map")
def map_(
    teacher: Teacher,
    student: Student,
    option: Options = None,
    teacher_option: TeacherOptions = None,
    student_option: StudentOptions = None,
    architecture: Architecture = None,
    correspondence: Correspondences = None,
    save: SaveMap = None,
) -> None:
    """Print where the teacher's tensors sit in the student, and whether a growth keeps the function."""
    if save is not None:
        new_file("--save", save)
    small, large = _sources(teacher, student, option, teacher_option, student_option, architecture)
    growth = _map(small, large, correspondence)
    typer.echo(str(growth))
    if save is not None:
        growth.save(save)


@app.command()
def grow(
    teacher: Teacher,
    student: Student,
    out: Out,
    teacher_weights: TeacherWeights = None,
    option: Options = None,
    teacher_option: TeacherOptions = None,
    student_option: StudentOptions = None,
    architecture: Architecture = None,
    correspondence: Correspondences = None,
    fill: Annotated[str, typer.Option(help="How new coordinates start.")] = "zero-out",
    seed: Annotated[int, typer.Option(help="Of the student's random values.")] = 0,
    optimizer: Optimizer = None,
) -> None:
    """Write the student that goes on from the teacher: configuration, weights, and optimiser if given."""
    _check_new(out)
    if teacher_weights is None and Path(teacher).is_dir():
        teacher_weights = Path(teacher)
    if teacher_weights is None:
        raise UsageError("--teacher-weights: none given, must be the teacher's safetensors file")
    if not teacher_weights.exists():
        raise UsageError(f"--teacher-weights: {teacher_weights} does not exist")
    torch.manual_seed(seed)
    small, large = _sources(teacher, student, option, teacher_option, student_option, architecture)
    small.read(teacher_weights)
    growth = _map(small, large, correspondence)
    for reason in growth.inexact_reasons:
        typer.echo(f"not exact: {reason}", err=True)
    grown = grown_model(small.module, large.module, fill, map=growth, seed=seed)
    state = optimizer and carried_state(optimizer, growth, small.module, grown)
    with _whole(out) as folder:
        large.write(grown, folder)
        if state is not None:
            torch.save(state, folder / "optimizer.pt")
    typer.echo(_summary(compare(small.module, grown, growth, inputs=small.example()), fill))
    typer.echo(f"written: {out}")


def _sources(
    teacher: str,
    student: str,
    both: list[str] | None,
    of_teacher: list[str] | None,
    of_student: list[str] | None,
    architecture: str | None,
) -> tuple[Source, Source]:
    shared = _options("--option", both)
    small = shared | _options("--teacher-option", of_teacher)
    large = shared | _options("--student-option", of_student)
    return (
        source_of("teacher", teacher, small, architecture),
        source_of("student", student, large, architecture),
    )


def _options(name: str, given: list[str] | None) -> dict[str, Any]:
    """Options ``NAME=VALUE``; a value that is no Python literal is text."""
    options = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UsageError(f"{name}: got {text!r}, must be NAME=VALUE")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return options


def _map(small: Source, large: Source, correspondence: list[str] | None) -> GrowthMap:
    pairs = {}
    for text in correspondence or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--correspondence: got {text!r}, must be TEACHER=STUDENT")
        pairs[key] = value
    return GrowthMap.between(
        small.module, large.module, inputs=small.example(), correspondence=pairs or None
    )


def _summary(change: Verification, fill: str) -> str:
    kept = "the function is kept" if change.exact else "the function changes"
    hint = (
        ""
        if fill in PRESERVING or change.exact
        else f"; {', '.join(PRESERVING)} keep it where that is possible"
    )
    return f"{kept}: {change}{hint}"


def _check_new(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"--out: {out} exists, must be a new or an empty folder")
    new_file("--out", out / "config.json")


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``out`` when the block succeeds. After a failure nothing is left."""
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    try:
        yield folder
        folder.chmod(0o755)
        if out.exists():
            out.rmdir()  # empty
        os.replace(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fail(text: str) -> None:
    typer.echo(f"error: {' '.join(text.split())}", err=True)
    sys.exit(2)
