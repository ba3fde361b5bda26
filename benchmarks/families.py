"""Measure the growth of whole families and write docs/families.md.

python -m benchmarks.families [--out docs/families.md]

Every model is in float64 with random values in all its tensors, so that a change of 1e-13 is rounding and a wrong
place shows. Seconds are of one call on one thread; the figures of ResNet-50 and ViT-B are in float32.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
import torchvision
from torch import nn
from torchvision import models as tv

from benchmarks.conftest import interleaved
from benchmarks.zoo import HANDWRITTEN, TORCHVISION, Family
from phiopt._modules import state_of
from phiopt.growth import AlignmentError, GrowthMap, compare, grow

FILLS = ("zero-out", "net2wider", "vv-zz")
"""The fills that keep the function where that is possible."""


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
    except AlignmentError as error:
        return Measured({}, 0.0, perf_counter() - began, (error.problem,))
    seconds = perf_counter() - began
    changes = {}
    for fill in FILLS:
        grown = grow(teacher, student, fill, map=growth, seed=1)
        changes[fill] = compare(teacher, grown, growth, inputs=x).max_rel
    reasons = growth.inexact_reasons
    return Measured(changes, share(growth, student), seconds, reasons, growth)


def share(growth: GrowthMap, student: nn.Module) -> float:
    """Of the student's coordinates, those that come from the teacher."""
    mask = growth.mask()
    total = sum(value.numel() for value in state_of(student).values())
    return sum(int(m.sum()) for m in mask.values()) / total


def row(family: Family, found: Measured) -> str:
    """One line of the table."""
    changes = [f"{found.changes[fill]:.0e}" if found.changes else "refused" for fill in FILLS]
    carried = f"{100 * found.share:.0f} %" if found.changes else "-"
    more = f" (and {len(found.reasons) - 1} more)" if len(found.reasons) > 1 else ""
    reason = (found.reasons[0].replace("|", "\\|") + more) if found.reasons else ""
    cells = (family.name, *changes, carried, f"{found.seconds:.2f}", reason)
    return "| " + " | ".join(cells) + " |"


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes of one large pair.

    Args:
        trace: Seconds for the map.
        embed, copy: Seconds to embed the teacher, and to copy the student's tensors and the teacher's.
        memory: Peak bytes that map and embedding add, over the student's own.
    """

    trace: float
    embed: float
    copy: float
    memory: float


def cost(name: str) -> Cost:
    """Time and memory of the map of a large pair and of embedding; in a fresh process, for its peak."""
    torch.set_num_threads(1)
    teacher, student = LARGE[name]()
    x = torch.zeros(2, 3, 224, 224)
    u, w = ({k: v.detach() for k, v in state_of(module).items()} for module in (teacher, student))
    size = sum(v.numel() * v.element_size() for v in w.values())
    before = peak()
    began = perf_counter()
    growth = GrowthMap.between(teacher, student, inputs=x)
    trace = perf_counter() - began
    calls = {
        "embed": lambda: growth.embed(u, into=w),
        "copy": lambda: [v.clone() for v in (*w.values(), *u.values())],
    }
    seconds = interleaved(calls, rounds=7)
    return Cost(trace, seconds["embed"], seconds["copy"], (peak() - before) / size)


def apart(call: Callable[[str], Cost], name: str) -> Cost:
    """The result of ``call`` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, name).result()


def peak() -> int:
    """The process's largest resident size so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def vit_b_pair() -> tuple[nn.Module, nn.Module]:
    """ViT-B/16's size as the student: twice the width, heads and hidden units of its teacher."""
    teacher = tv.VisionTransformer(224, 16, 12, 6, 384, 1536)
    return teacher, tv.VisionTransformer(224, 16, 12, 12, 768, 3072)


LARGE: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "ResNet-50 to Wide-ResNet-50-2": lambda: (tv.resnet50(), tv.wide_resnet50_2()),
    "ViT, 12 layers, 384 to 768 (ViT-B/16)": vit_b_pair,
}

PAGE = """# Families

Made by `python -m benchmarks.families` with torch {torch}, torchvision {vision}, on {machine}, one thread.

For each pair of models, all tensors random and in float64: the largest change of the teacher's logits, relative to the
largest logit, after growing by each function-preserving fill; the share of the student's coordinates that come from the
teacher; seconds for the map; and what the map says where no growth keeps the function. *Refused* pairs get the error
shown: the teacher computes something that the student does not.

Where the change is rounding (1e-12 and below) the growth is exact; where it is not, the last column says at which layer
and why.

## torchvision

{head}
{torchvision}

## Written by hand

{head}
{handwritten}

## Large pairs

In float32. *Copy* clones the student's and the teacher's tensors, which is what embedding has to move; *memory* is
the peak that map and embedding add to the process, in multiples of the student's own size.

| pair | map, s | embed, s | copy, s | embed / copy | memory |
| --- | --- | --- | --- | --- | --- |
{large}
"""

HEAD = f"| family | {' | '.join(FILLS)} | carried | map, s | not exact |\n" + "| --- " * 7 + "|"


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

    return PAGE.format(
        torch=torch.__version__.partition("+")[0],
        vision=torchvision.__version__.partition("+")[0],
        machine=f"{platform.system()} {platform.machine()}",
        head=HEAD,
        torchvision=rows(TORCHVISION),
        handwritten=rows(HANDWRITTEN),
        large="\n".join(large),
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
