"""What the commands do when their arguments are right. Here PyTorch is loaded, and the libraries of models."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phiopt.cli.optimizer import carried_state
from phiopt.cli.sources import Source, source_of
from phiopt.growth import GrowthMap, Verification, compare, grow
from phiopt.growth.registry import PRESERVING


@dataclass(frozen=True)
class Given:
    """What both commands are given.

    Args:
        teacher: A name, folder or file; see `source_of`.
        student: Likewise.
        teacher_options: Options of the teacher's constructor.
        student_options: Options of the student's.
        architecture: The class of both transformers models.
        correspondence: Modules that belong together.
    """

    teacher: str
    student: str
    teacher_options: Mapping[str, Any]
    student_options: Mapping[str, Any]
    architecture: str | None
    correspondence: Mapping[str, str]

    def sources(self) -> tuple[Source, Source]:
        """The teacher and the student."""
        return (
            source_of("teacher", self.teacher, self.teacher_options, self.architecture),
            source_of("student", self.student, self.student_options, self.architecture),
        )

    def map(self, small: Source, large: Source) -> GrowthMap:
        """Where the teacher sits in the student."""
        return GrowthMap.between(
            small.module,
            large.module,
            inputs=small.example(),
            correspondence=self.correspondence or None,
        )


def mapped(given: Given) -> GrowthMap:
    """The map of the two models."""
    return given.map(*given.sources())


def grown(
    given: Given, weights: Path, out: Path, fill: str, seed: int, optimizer: Path | None
) -> Iterator[tuple[str, bool]]:
    """Write the student that goes on from the teacher. Yields lines for the user, and whether each is a warning."""
    torch.manual_seed(seed)
    small, large = given.sources()
    small.read(weights)
    growth = given.map(small, large)
    for reason in growth.inexact_reasons:
        yield f"not exact: {reason}", True
    student = grow(small.module, large.module, fill, map=growth, seed=seed)
    state = optimizer and carried_state(optimizer, growth, small.module, student)
    with _whole(out) as folder:
        large.write(student, folder)
        if state is not None:
            torch.save(state, folder / "optimizer.pt")
    yield _summary(compare(small.module, student, growth, inputs=small.example()), fill), False
    yield f"written: {out}", False


def _summary(change: Verification, fill: str) -> str:
    kept = "the function is kept" if change.exact else "the function changes"
    hint = (
        ""
        if fill in PRESERVING or change.exact
        else f"; {', '.join(PRESERVING)} keep it where that is possible"
    )
    return f"{kept}: {change}{hint}"


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
