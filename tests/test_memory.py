"""Many calls in one process: memory does not grow with them.

What counts is memory that was asked for and not given back: in bytes of the C library's allocator, which holds all
tensors, and in blocks of Python's. Resident memory hangs on the size of pages and on what an allocator keeps for later.
"""

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torchopt
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import phiopt
from phiopt import Implicit, Replay, initialize

CALLS, FIRST = 200, 10
"""All calls, and those that fill what is filled once; there are as many kinds of calls."""


def net(hidden: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, classes))


class Failing(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, reads: int) -> None:
        self.left = reads

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.left -= 1
        if self.left < 0:
            raise OSError("the disk is gone")
        return torch.full((64,), index / 64), index % 5


def kinds() -> list[Callable[[], object]]:
    """One call each: solvers, adjoints, data, and calls that fail before, amid and after the steps."""
    torch.manual_seed(0)
    teacher, student = net(32, 5), net(2700, 8)
    data = torch.rand(64, 64), torch.arange(64) % 5
    weights, few = (0.4, 0.3, 0.3, 0.0), phiopt.TorchOpt(steps=3, batch_size=32)

    def solved(lambdas: object = weights, source: object = data, **options: object) -> object:
        return initialize(teacher, student, lambdas, source, **{"solver": few, **options})  # type: ignore[arg-type]

    def differentiated(adjoint: object, **options: object) -> None:
        lambdas = torch.tensor(weights, requires_grad=True)
        actual: phiopt.Solution = solved(lambdas, adjoint=adjoint, **options)  # type: ignore[assignment]
        sum(p.square().sum() for p in actual.params.values()).backward()  # type: ignore[union-attr]

    sgd = phiopt.TorchOpt(torchopt.sgd(1e6), steps=3, batch_size=32)
    lbfgs = phiopt.LBFGS(steps=3, draws=1)
    return [
        solved,
        lambda: solved(solver=lbfgs, throw=False),
        lambda: solved((0.4, 0.3, 0.3, -1.0)),
        lambda: solved((0.25, 0.25, 0.25, 0.25), throw=False),
        lambda: solved(solver=sgd),
        lambda: solved(source=Failing(700)),
        lambda: differentiated(Replay()),
        lambda: differentiated(Implicit(), solver=lbfgs),
        lambda: solved(source=DataLoader(TensorDataset(*data), 32, shuffle=True)),
        lambda: solved(loss=lambda outputs, targets: outputs.detach().sum(1)),
    ]


FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")
FIELDS += ("uordblks", "fordblks", "keepcost")


class MallInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``: ``uordblks`` and ``hblkhd`` are the bytes in use on the heaps and outside."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


LIBRARY = ctypes.CDLL(None)


def in_use() -> tuple[int, int]:
    """Bytes, and blocks of Python's allocator."""
    gc.collect()
    LIBRARY.mallinfo2.restype = MallInfo
    info = LIBRARY.mallinfo2()
    return info.uordblks + info.hblkhd, sys.getallocatedblocks()


def measure() -> None:
    """Print what is in use after every tenth call, how each kind of call ended, and what a kept copy looks like."""
    calls, ended, used = kinds(), {}, []
    for number in range(CALLS):
        kind = number % len(calls)
        try:
            calls[kind]()
            ended[kind] = "fine"
        except (phiopt.SolveError, phiopt.AdjointError, ValueError) as error:
            ended[kind] = type(error).__name__
        if kind == len(calls) - 1:
            used.append(in_use())
    copy = [p.detach().clone() for p in net(2700, 8).parameters()]
    seen = in_use()[0] - used[-1][0]
    size = sum(p.nbytes for p in copy)
    print(json.dumps({"used": used, "ended": list(ended.values()), "size": size, "seen": seen}))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(LIBRARY, "mallinfo2"), reason="needs glibc 2.33")
def test_memory_does_not_grow_with_the_number_of_calls():
    code = "from tests.test_memory import measure; measure()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    content = json.loads(run.stdout.splitlines()[-1])
    assert content["ended"] == [
        "fine",
        "fine",
        "ValueError",
        "fine",
        "SolveError",
        "SolveError",
        "fine",
        "AdjointError",
        "fine",
        "ValueError",
    ]
    assert content["seen"] >= content["size"]
    (first, first_blocks), *_, (last, last_blocks) = content["used"]
    # Not even one call has kept a copy of the student, and a solution that stays is dozens of blocks.
    assert last - first < content["size"], content["used"]
    assert last_blocks - first_blocks < 5 * (CALLS - FIRST), content["used"]
