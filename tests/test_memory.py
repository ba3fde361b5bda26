"""Many calls in one process: memory does not grow with them."""

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path

import pytest
import torch
import torchopt
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import phiopt
from phiopt import Implicit, Replay, initialize

CALLS, FIRST = 200, 10
BOUND = 8.0
"""MiB. A leaked copy of the student's parameters is 0.8 MiB a call, so 150 MiB after all calls."""
MIB = 2**20


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
        found: phiopt.Solution = solved(lambdas, adjoint=adjoint, **options)  # type: ignore[assignment]
        sum(p.square().sum() for p in found.params.values()).backward()  # type: ignore[union-attr]

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


def resident() -> float:
    """MiB, after all that is free has been given back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def measure() -> None:
    """Print the memory after every tenth call, and how each kind of call ended."""
    calls, ended, sizes = kinds(), {}, []
    for number in islice(count(1), CALLS):
        kind = (number - 1) % len(calls)
        try:
            calls[kind]()
            ended[kind] = "fine"
        except (phiopt.SolveError, phiopt.AdjointError, ValueError) as error:
            ended[kind] = type(error).__name__
        if number % FIRST == 0:
            sizes.append(round(resident(), 2))
    print(json.dumps({"sizes": sizes, "ended": list(ended.values())}))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_calls():
    code = "from tests.test_memory import measure; measure()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["ended"] == [
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
    first, *_, last = found["sizes"]
    assert last - first < BOUND, found["sizes"]
