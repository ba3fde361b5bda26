"""Read JSON from an untrusted file. Every error names the file and the field."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from reprlib import repr as excerpt
from typing import Any

WHOLE = 2**63 - 1
"""The largest whole number that a tensor can hold."""


def parsed(text: str | bytes, where: str) -> Field:
    """The JSON of a file. Errors begin with ``where``.

    Raises:
        ValueError: The text is not UTF-8 or not JSON, has a key twice, holds a number of thousands of
            digits, or is nested too deeply to be read.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        return Field(where, "", json.loads(text, object_pairs_hook=_once))
    except RecursionError:
        raise ValueError(f"{where}: its JSON is nested too deeply to be read") from None
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON ({error})") from error


@dataclass(frozen=True)
class Field:
    """A value in a JSON file. ``where`` names the file, ``name`` the field."""

    where: str
    name: str
    value: Any

    def wrong(self, rule: str) -> ValueError:
        """The error for a value that breaks the rule."""
        name = self.name or "its JSON"
        return ValueError(f"{self.where}: {name} is {excerpt(self.value)}, must be {rule}")

    def members(self, required: Iterable[str] = ()) -> dict[str, Field]:
        """The members of an object. An error unless it has the required keys."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        for key in required:
            if key not in self.value:
                raise ValueError(f"{self.where}: {self._of(key)} is missing")
        return {key: Field(self.where, self._of(key), item) for key, item in self.value.items()}

    def items(self) -> list[Field]:
        """The items of a list."""
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return [Field(self.where, self._of(i), item) for i, item in enumerate(self.value)]

    def text(self, choices: Collection[str] = ()) -> str:
        if not isinstance(self.value, str) or (choices and self.value not in choices):
            raise self.wrong(f"one of {', '.join(choices)}" if choices else "a string")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def whole(self, least: int = -WHOLE, most: int = WHOLE) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.wrong("a whole number")
        if not least <= self.value <= most:
            raise self.wrong(f"in {least} ... {most}")
        return self.value

    def number(self) -> float:
        """A number, whose type stays: a whole number stays whole. NaN and infinity are numbers too."""
        number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not number or (isinstance(self.value, int) and abs(self.value) > WHOLE):
            raise self.wrong("a number")
        return self.value

    def _of(self, key: str | int) -> str:
        return f"{self.name}.{key}" if self.name else str(key)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, refused if a key is there twice: one of the two values would be lost."""
    members = dict(pairs)
    if len(members) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return members
