"""Measure the growth of whole families and write docs/families.md.

python -m benchmarks.families [--out docs/families.md]

Every model is in float64 with random values in all its tensors, so that a change of 1e-13 is rounding and a wrong
place shows. Seconds are of one call on one thread; the figures of ResNet-50 and ViT-B are in float32.
"""

from __future__ import annotations

import argparse
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import nn

from benchmarks.large_pairs import LARGE, apart, cost
from benchmarks.libraries import TIMM, TIMM_KINDS, TRANSFORMERS, TRANSFORMERS_KINDS
from benchmarks.zoo import HANDWRITTEN, TORCHVISION, Family
from phiopt._modules import state_of
from phiopt.growth import AlignmentError, GrowthMap, compare, grow
from phiopt.growth.registry import PRESERVING

ROUNDING = 1e-5
"""Relative change of the logits up to which a growth of a library's model counts as exact, in float64."""


@dataclass(frozen=True)
class Measured:
    """What one pair gave.

    Args:
        changes: Largest |Δ logits| over the largest |logit|, by fill; empty if the pair is refused.
        share: Of the student's coordinates that come from the teacher.
        seconds: For the map.
        reasons: The map's reasons why it is not exact, or the refusal.
        growth: The map; None if the pair is refused.
    """

    changes: dict[str, float]
    share: float
    seconds: float
    reasons: tuple[str, ...]
    growth: GrowthMap | None = None


def measure(family: Family) -> Measured:
    """Map, grow by every fill and compare one pair."""
    teacher, student = family.models()
    x = family.inputs()
    began = perf_counter()
    try:
        growth = GrowthMap.between(teacher, student, inputs=x, **family.options)
    except (ValueError, TypeError) as error:  # phiopt's refusals
        why = error.problem if isinstance(error, AlignmentError) else str(error)
        return Measured({}, 0.0, perf_counter() - began, (why,))
    seconds = perf_counter() - began
    changes = {}
    for fill in PRESERVING:
        try:
            grown = grow(teacher, student, fill, map=growth, seed=1)
        except AlignmentError as error:  # the check on numbers
            return Measured({}, 0.0, seconds, (error.problem,))
        changes[fill] = compare(teacher, grown, growth, inputs=x).max_rel
    reasons = growth.inexact_reasons
    return Measured(changes, share(growth, student), seconds, reasons, growth)


def share(growth: GrowthMap, student: nn.Module) -> float:
    """Of the student's coordinates, those that come from the teacher."""
    mask = growth.mask()
    total = sum(value.numel() for value in state_of(student).values())
    return sum(int(m.sum()) for m in mask.values()) / total


def row(family: Family, measured: Measured) -> str:
    """One line of the table."""
    changes = [
        f"{measured.changes[fill]:.0e}" if measured.changes else "refused" for fill in PRESERVING
    ]
    carried = f"{100 * measured.share:.0f} %" if measured.changes else "-"
    more = f" (and {len(measured.reasons) - 1} more)" if len(measured.reasons) > 1 else ""
    reason = (measured.reasons[0].replace("|", "\\|") + more) if measured.reasons else ""
    cells = (family.name, *changes, carried, f"{measured.seconds:.2f}", reason)
    return "| " + " | ".join(cells) + " |"


def matrix(
    families: Iterable[Family], kinds: Sequence[str], progress: Callable[[str], None]
) -> str:
    """A table, family by kind of change, and a line for each pair that is not exact."""
    cells: dict[str, dict[str, str]] = {}
    notes, seconds = [], []
    for family in families:
        measured = measure(family)
        seconds.append(measured.seconds)
        verdict = judged(measured)
        progress(f"{family.name}, {family.kind}: {verdict}, {measured.seconds:.1f} s")
        cells.setdefault(family.name, {})[family.kind] = verdict
        if verdict != "exact":
            more = f" (and {len(measured.reasons) - 1} more)" if len(measured.reasons) > 1 else ""
            why = measured.reasons[0] if measured.reasons else "no reason is given"
            notes.append(f"- {family.name}, {family.kind}: {verdict}: {why}{more}")
    head = f"| family | {' | '.join(kinds)} |\n" + "| --- " * (len(kinds) + 1) + "|"
    rows = [
        "| " + " | ".join([name, *(row.get(kind, "") for kind in kinds)]) + " |"
        for name, row in cells.items()
    ]
    verdicts = Counter(cell.partition(" ")[0] for row in cells.values() for cell in row.values())
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    times = f"A map takes {median(seconds):.1f} s in the median and at most {max(seconds):.1f} s."
    return "\n".join([f"{counts}. {times}", "", head, *rows, "", *notes])


def judged(measured: Measured) -> str:
    """``exact``, ``refused``, ``Δ`` and the change if the map gives a reason for it, else ``WRONG``."""
    if not measured.changes:
        return "refused"
    change = max(measured.changes[fill] for fill in ("zero-out", "net2wider"))
    if change <= ROUNDING:
        return "exact"
    return f"Δ {change:.0e}" if measured.reasons else f"WRONG {change:.0e}"


PAGE = """# Families

Made by `python -m benchmarks.families` with torch {torch}, torchvision {torchvision}, timm {timm}, transformers
{transformers}, on {machine}, one thread.

For each pair of models, all tensors random and in float64: the largest change of the teacher's logits, relative to the
largest logit, after growing by each function-preserving fill; the share of the student's coordinates that come from the
teacher; seconds for the map; and what the map says where no growth keeps the function. *Refused* pairs get the error
shown: the teacher computes something that the student does not.

Where the change is rounding (1e-12 and below) the growth is exact; where it is not, the last column says at which layer
and why.

## torchvision

{head}
{torchvision_table}

## Written by hand

{head}
{handwritten_table}

## timm

A cell is *exact*, *Δ* with the change if the map says in advance that the function cannot be kept, or *refused*.
The list below the table has the reasons.

{timm_table}

## transformers

With the default cache, as the models are made.

{transformers_table}

## Large pairs

In float32. *Copy* clones the student's and the teacher's tensors, which is what embedding has to move; *memory* is
the peak that map and embedding add to the process, in multiples of the student's own size.

| pair | map, s | embed, s | copy, s | embed / copy | memory |
| --- | --- | --- | --- | --- | --- |
{large_table}
"""

HEAD = (
    f"| family | {' | '.join(PRESERVING)} | carried | map, s | not exact |\n" + "| --- " * 7 + "|"
)


def page(progress: Callable[[str], None] = print) -> str:
    """The whole page, measured."""
    costs = {name: apart(cost, name) for name in LARGE}
    large = [
        f"| {name} | {c.trace:.2f} | {c.embed:.3f} | {c.copy:.3f} | {c.embed / c.copy:.2f} | {c.memory:.2f} |"
        for name, c in costs.items()
    ]

    def rows(families: Iterable[Family]) -> str:
        lines = []
        for family in families:
            lines.append(row(family, measure(family)))
            progress(lines[-1])
        return "\n".join(lines)

    libraries = ("torch", "torchvision", "timm", "transformers")
    return PAGE.format(
        **{name: version(name).partition("+")[0] for name in libraries},
        machine=f"{platform.system()} {platform.machine()}",
        head=HEAD,
        torchvision_table=rows(TORCHVISION),
        handwritten_table=rows(HANDWRITTEN),
        timm_table=matrix(TIMM, TIMM_KINDS, progress),
        transformers_table=matrix(TRANSFORMERS, TRANSFORMERS_KINDS, progress),
        large_table="\n".join(large),
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/families.md"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    out.write_text(page(partial(print, flush=True)))


if __name__ == "__main__":
    main()
