"""What the JSON files of a run directory hold: a file of another form is told by its path and the field."""

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

from experiments.errors import UsageError
from phiopt._json import Field, parsed

Check: TypeAlias = Callable[[Field], object]
"""Raises ``ValueError`` where a field breaks its rule."""


def read(path: Path, check: Check) -> Any:
    """The value that a file holds.

    Raises ``UsageError`` if it is not of the form that ``check`` asks for, ``OSError`` if it cannot be read.
    """
    return checked(path.read_bytes(), str(path), check)


def checked(text: str | bytes, where: str, check: Check) -> Any:
    """The value of a JSON text; errors begin with ``where``."""
    try:
        field = parsed(text, where)
        check(field)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return field.value


def number(field: Field) -> None:
    if not isfinite(field.number()):
        raise field.wrong("finite")


def count(field: Field) -> None:
    field.whole(0)


def name(field: Field) -> None:
    """Part of a file's name."""
    text = field.text()
    if not text or text.startswith(".") or not text.isprintable() or set(text) & set('/\\:*?"<>|'):
        raise field.wrong("a name that can be part of a file's")


def text(field: Field) -> None:
    field.text()


def anything(field: Field) -> None:
    """Not looked at."""


def optional(check: Check) -> Check:
    def or_none(field: Field) -> None:
        if field.value is not None:
            check(field)

    return or_none


def every(check: Check, length: int | None = None, least: int = 0) -> Check:
    """A list."""

    def listed(field: Field) -> None:
        items = field.items()
        if length not in (None, len(items)) or len(items) < least:
            raise field.wrong(f"of {least if length is None else length} entries")
        for item in items:
            check(item)

    return listed


def table(check: Check) -> Check:
    """An object of any keys."""

    def members(field: Field) -> None:
        for item in field.members().values():
            check(item)

    return members


def form(needed: Mapping[str, Check], others: Mapping[str, Check] | None = None) -> Check:
    """An object with these keys, and perhaps others."""
    known = {**needed, **(others or {})}

    def members(field: Field) -> None:
        for key, item in field.members(needed).items():
            known.get(key, anything)(item)

    return members


def corruption(field: Field) -> None:
    form(dict.fromkeys(("percentages", "accuracy", "cross_entropy"), every(number)))(field)
    if len({len(values) for values in field.value.values()}) > 1:
        raise field.wrong("lists of one length")


WEIGHTS = every(number, 4)
CURVE = every(form(dict.fromkeys(("gradients", "accuracy", "cross_entropy"), number)), least=1)
MEASURES = ("accuracy", "cross_entropy", "area", "accuracy_30", "robustness")


def test(field: Field) -> None:
    form(dict.fromkeys(MEASURES, number))(field)
    table(optional(number))(field)


SOLUTION = form(
    {
        "status": text,
        "terms": table(optional(number)),
        "objective": optional(number),
        "start_objective": optional(number),
    },
    {"lambdas": WEIGHTS},
)
RECORD = form(
    {
        "task": name,
        "method": name,
        "seed": count,
        "learning_rate": number,
        "epoch": number,
        "curve": CURVE,
        "test": test,
        "corruption": corruption,
        "environment": table(text),
        "initialisation_gradients": number,
        "seconds": number,
    },
    {
        "teacher_seed": count,
        "examples": count,
        "equal_epochs": form({"curve": CURVE, "test": test, "learning_rate": number}),
        "solution": optional(SOLUTION),
    },
)
"""Of a trained student."""
_SOLVED = {
    "task": name,
    "seed": count,
    "lambdas": WEIGHTS,
    "seconds": number,
    "environment": table(text),
}
POINT = form(
    {
        **_SOLVED,
        "outer": optional(number),
        "other_horizon": optional(number),
        "point": every(count, 4),
        "terms": table(optional(number)),
        "status": text,
        "stats": form({"gradient": number}),
    }
)
"""Of a point of a lattice."""
TRIAL = form(
    {
        "lambdas": WEIGHTS,
        "outer": optional(number),
        "status": optional(text),
        "gradients": number,
    }
)
SEARCH = form(
    {
        **_SOLVED,
        "outer": number,
        "start_outer": number,
        "gradients": number,
        "path": every(TRIAL, least=1),
    }
)
"""Of a search for λ."""


def cell(field: Field) -> None:
    """Any record: of a student, a lattice point or a search."""
    members = field.members(("task", "seed"))
    kind = POINT if "point" in members else SEARCH if "path" in members else RECORD
    kind(field)


REFUSAL = form({"task": name, "method": name, "seed": count, "reason": text})
LOG = form(
    {
        "command": text,
        "task": name,
        "title": text,
        "methods": every(text),
        "seeds": every(count),
    }
)
SETTINGS = form({"experiment": text, "phiopt": text})
VARIANCE = table(number)
