"""The commands ``phiopt map`` and ``phiopt grow``: their arguments. PyTorch is loaded when these are right."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from phiopt._paths import new_file
from phiopt.cli.sources import UsageError, check_architecture, check_source

FILLS = (
    "default",
    "matched",
    "net2wider",
    "uniform",
    "uniform-symmetric",
    "vv-zz",
    "zero",
    "zero-out",
)
"""The names of `phiopt.growth.registry.FILLS`, said once more, because that loads PyTorch."""
MOST = 2**63 - 1
"""The largest seed."""


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
    options = (option, teacher_option, student_option)
    given = _checked(teacher, student, *options, architecture, correspondence)
    from phiopt.cli.work import Given, mapped

    growth = mapped(Given(**given))
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
    seed: Annotated[int, typer.Option(help="Of the student's random values.", min=0, max=MOST)] = 0,
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
    if fill not in FILLS:
        raise UsageError(f"--fill: got {fill!r}, must be one of {', '.join(FILLS)}")
    if optimizer is not None and not optimizer.exists():
        raise UsageError(f"--optimizer: {optimizer} does not exist")
    options = (option, teacher_option, student_option)
    given = _checked(teacher, student, *options, architecture, correspondence)
    from phiopt.cli.work import Given, grown

    for line, warns in grown(Given(**given), teacher_weights, out, fill, seed, optimizer):
        typer.echo(line, err=warns)


def _checked(
    teacher: str,
    student: str,
    both: list[str] | None,
    of_teacher: list[str] | None,
    of_student: list[str] | None,
    architecture: str | None,
    correspondence: list[str] | None,
) -> dict[str, Any]:
    """The fields of `phiopt.cli.work.Given`. Mistakes that can be seen without PyTorch are refused."""
    shared = _options("--option", both)
    given = {
        "teacher_options": shared | _options("--teacher-option", of_teacher),
        "student_options": shared | _options("--student-option", of_student),
        "architecture": architecture,
        "correspondence": _pairs(correspondence),
    }
    for role, name in (("teacher", teacher), ("student", student)):
        check_source(role, name)
    if architecture is not None:
        check_architecture(architecture)
    return {"teacher": teacher, "student": student, **given}


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


def _pairs(given: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--correspondence: got {text!r}, must be TEACHER=STUDENT")
        pairs[key] = value
    return pairs


def _check_new(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"--out: {out} exists, must be a new or an empty folder")
    new_file("--out", out / "config.json")


def _fail(text: str) -> None:
    typer.echo(f"error: {' '.join(text.split())}", err=True)
    sys.exit(2)
