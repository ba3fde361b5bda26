"""Time and memory of the map of large pairs, and of embedding."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import nn
from torchvision import models as tv

from benchmarks.conftest import interleaved
from phiopt._modules import state_of
from phiopt.growth import GrowthMap


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
