"""Modules that a user says belong together: they are checked, and limit which operations are paired."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import combinations

from torch import nn

from phiopt._shown import shown
from phiopt.growth.errors import AlignmentError, Side
from phiopt.growth.graph import Node, Trace
from phiopt.growth.runs import inside

Scope = Callable[[str], str | None]


@dataclass(frozen=True)
class Named:
    """The argument ``correspondence=``: teacher's module names to student's. It is falsy if it names none."""

    pairs: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pairs)

    def __str__(self) -> str:
        return f"correspondence={dict(self.pairs)!r}"

    def renamed(self, module: str) -> str | None:
        """The student's module that belongs to the teacher's ``module``; ``None`` if none is named."""
        return _moved(module, self.pairs)

    def likely(self, module: str) -> str:
        """The best guess of the student's module for the teacher's ``module``.

        It is the named one, else the one beside a named module, else the one of the same name.
        """
        around = {}
        for old, new in self.pairs.items():
            a, b = old.split("."), new.split(".")
            while a and b and a[-1] == b[-1]:
                a, b = a[:-1], b[:-1]
                around[".".join(a)] = ".".join(b)
        return _moved(module, around | dict(self.pairs)) or module

    @property
    def scopes(self) -> tuple[Scope, Scope]:
        """The scope of each of the teacher's modules and of the student's: the named module of the student inside which
        it must sit, or sits; ``None`` if none is named. Only modules of the same scope belong together."""
        return (
            lambda module: _scope(module, self.pairs),
            lambda module: _scope(module, {new: new for new in self.pairs.values()}),
        )

    def allows(self, teacher: Node, student: Node) -> bool:
        """Whether these operations may be paired."""
        old, new = self.scopes
        return old(teacher.module) == new(student.module)

    def check_order(self, teacher: Trace, student: Trace) -> None:
        """Check that named modules run in the same order in both models, and that each pair runs in both or in neither.

        Raises:
            AlignmentError: They do not; the message names the pairs.
        """
        runs: dict[str, tuple[int, int]] = {}
        for old, new in self.pairs.items():
            t, s = _first(teacher, old), _first(student, new)
            if (t is None) != (s is None):
                idle, role = (old, "teacher") if t is None else (new, "student")
                raise AlignmentError(
                    f"correspondence: {old!r} cannot be {new!r}: the {role}'s {idle!r} computes nothing in the "
                    "forward pass, the other does",
                    "Name modules that both run, or leave the pair out",
                    teacher=Side(old),
                    student=Side(new),
                )
            if t is not None and s is not None:
                runs[old] = t, s
        for a, b in combinations(runs, 2):
            if inside(a, b) or inside(b, a):
                continue
            before = [runs[a][i] < runs[b][i] for i in (0, 1)]
            if before[0] != before[1]:
                x, y = (a, b) if before[0] else (b, a)
                raise AlignmentError(
                    f"correspondence: {x!r} -> {self.pairs[x]!r} and {y!r} -> {self.pairs[y]!r} cross: the teacher "
                    f"runs {x!r} before {y!r}, the student {self.pairs[y]!r} before {self.pairs[x]!r}",
                    "Name pairs that run in the same order in both models",
                    teacher=Side(x),
                    student=Side(self.pairs[x]),
                )

    def check_places(
        self,
        placed: Mapping[str, str],
        teacher: Mapping[str, Sequence[str]],
        student: Mapping[str, Sequence[str]],
    ) -> None:
        """Check that the tensors of a named module sit in the module that belongs to it.

        Args:
            placed: Student's name of each of the teacher's tensors.
            teacher: All names of each of the teacher's tensors. Tied tensors have several.
            student: The same of the student's tensors.

        Raises:
            AlignmentError: A tensor sits elsewhere.
        """
        for old, new in placed.items():
            modules = [
                {n.rpartition(".")[0] for n in names} for names in (teacher[old], student[new])
            ]
            scopes = [set(map(f, names)) for f, names in zip(self.scopes, modules, strict=True)]
            if any(s - {None} and not s & other for s, other in (scopes, scopes[::-1])):
                raise AlignmentError(
                    f"correspondence: the teacher's {old!r} would sit in the student's {new!r}, against what it says",
                    "Name the modules whose operations do the same, or leave the pair out",
                    teacher=Side.of_tensor(old),
                    student=Side.of_tensor(new),
                )


def named(teacher: nn.Module, student: nn.Module, correspondence: object) -> Named:
    """Check the argument ``correspondence=``: module names, or patterns in which a star stands for a part of a name.

    Raises:
        TypeError: It is no mapping of names to names.
        ValueError: A module does not exist, or names contradict each other.
    """
    if correspondence is None:
        return Named()
    if not isinstance(correspondence, Mapping) or not all(
        isinstance(name, str) for pair in correspondence.items() for name in pair
    ):
        raise TypeError(
            f"correspondence: got {shown(correspondence)}, must be a mapping of the teacher's module "
            "names to the student's"
        )
    pairs: dict[str, str] = {}
    for old, new in _spelt_out(teacher, correspondence):
        key, value = _known("teacher", teacher, old), _known("student", student, new)
        if pairs.setdefault(key, value) != value:
            raise ValueError(
                f"correspondence: {old!r} is the teacher's {key!r}, which is said to be {pairs[key]!r} and {new!r}"
            )
    for (a, x), (b, y) in combinations(pairs.items(), 2):
        if x == y:
            raise ValueError(
                f"correspondence: {a!r} and {b!r} are both said to be {x!r}, which can be only one of them"
            )
        for (outer, image), (inner, other) in (((a, x), (b, y)), ((b, y), (a, x))):
            if inside(inner, outer) != inside(other, image):
                raise ValueError(
                    f"correspondence: {outer!r} -> {image!r} and {inner!r} -> {other!r} contradict each other: one "
                    "of them lies inside the other in only one of the models"
                )
    return Named(pairs)


def _spelt_out(teacher: nn.Module, correspondence: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The names, and for each pattern those that it stands for. A name that is written out goes before patterns.

    Raises:
        ValueError: A pattern fits no module of the teacher, or the two patterns have different numbers of stars.
    """
    written = {old: new for old, new in correspondence.items() if "*" not in old + new}
    yield from written.items()
    for old, new in correspondence.items():
        if old in written:
            continue
        if old.count("*") != new.count("*"):
            raise ValueError(
                f"correspondence: {old!r} has {old.count('*')} stars and {new!r} has {new.count('*')}, must be as many"
            )
        pattern = re.compile(re.escape(old).replace(r"\*", r"([^.]+)"))
        fitting = [m for name, _ in teacher.named_modules() if (m := pattern.fullmatch(name))]
        if not fitting:
            names = [name for name, _ in teacher.named_modules()]
            raise ValueError(
                f"correspondence: {old!r} fits no module of the teacher{_listing(names)}"
            )
        for match in fitting:
            if match[0] not in written:
                parts = iter(match.groups())
                yield match[0], re.sub(r"\*", lambda _: next(parts), new)  # noqa: B023


def _known(role: str, module: nn.Module, name: str) -> str:
    """The first name of the module called ``name``. A shared module has several."""
    everything = dict(module.named_modules(remove_duplicate=False))
    if name in everything:
        return next(first for first, part in module.named_modules() if part is everything[name])
    near = get_close_matches(name, [n for n in everything if n], n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else _listing(everything)
    raise ValueError(f"correspondence: the {role} has no module {name!r}{hint}")


def _listing(names: Sequence[str] | Mapping[str, nn.Module], most: int = 12) -> str:
    shown = [repr(n) for n in names if n]
    more = f", ... {len(shown) - most} more" if len(shown) > most else ""
    return f"; it has {', '.join(shown[:most])}{more}" if shown else "; it has no submodules"


def _moved(module: str, pairs: Mapping[str, str]) -> str | None:
    """``module`` with the nearest name above it in ``pairs`` replaced; ``None`` if there is none."""
    above = [name for name in pairs if inside(module, name)]
    if not above:
        return None
    nearest = max(above, key=len)
    below = module[len(nearest) :].lstrip(".")
    return ".".join(part for part in (pairs[nearest], below) if part)


def _scope(module: str, pairs: Mapping[str, str]) -> str | None:
    """What the nearest named module above ``module`` is paired with."""
    above = [name for name in pairs if inside(module, name)]
    return pairs[max(above, key=len)] if above else None


def _first(trace: Trace, module: str) -> int | None:
    return next((i for i, n in enumerate(trace.nodes) if inside(n.module, module)), None)
