"""Two objects that do not do the same are described differently; the same, made anew, alike."""

import random
import subprocess
import sys
from collections import UserDict
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
import torchopt
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import phiopt
from phiopt._described import described

SCALE = 2.0


def by_global(x):
    return SCALE * x


def helped(x):
    return helper(x)


def helper(x):
    return x + 1


def enclosed(scale):
    return lambda x: scale * x


def default(scale):
    def function(x, factor=scale):
        return factor * x

    return function


@dataclass(frozen=True)
class Fields:
    _scale: float = 1.0


class Attributes:
    def __init__(self, scale):
        self.scale = scale
        self._calls = random.random()


class Net(nn.Module):
    def __init__(self, scale, weight=1.0):
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.full((6,), weight))
        self.register_buffer("mean", torch.zeros(2))


class Pairs(Dataset):
    def __init__(self, offset):
        self.offset = offset


def generator(seed):
    return torch.Generator().manual_seed(seed)


def loader(size, seed=0):
    data = TensorDataset(torch.arange(6.0))
    return DataLoader(data, size, shuffle=True, generator=generator(seed))


def bent(value):
    class Bent(Attributes):
        if value == 1:

            def __call__(self, x):
                return x

        else:

            def __call__(self, x):
                return x + value

    return Bent(1)


MAKE = {
    "number": lambda v: v,
    "text": lambda v: "x" * 100 + str(v),
    "tensor": lambda v: torch.full((9,), float(v)),
    "small tensor": lambda v: torch.tensor(float(v)),
    "last bit": lambda v: torch.tensor([0.1] * 9) * (1 + v * 2**-23),
    "dtype": lambda v: torch.ones(9, dtype=(torch.float32, torch.bfloat16)[v - 1]),
    "shape": lambda v: torch.ones((6, 2) if v == 1 else (2, 6)),
    "frozen": lambda v: torch.ones(9, requires_grad=v == 1),
    "array": lambda v: np.full(9, v),
    "generator": generator,
    "numpy generator": np.random.default_rng,
    "legacy generator": np.random.RandomState,
    "python generator": random.Random,
    "closure": enclosed,
    "default": default,
    "partial": lambda v: partial(pow, v),
    "method": lambda v: Attributes(v).__init__,
    "body": lambda v: (lambda x: x) if v == 1 else (lambda x: x + 1),
    "constant": lambda v: (lambda x: x + 1) if v == 1 else (lambda x: x + 2),
    "fields": lambda v: Fields(v),
    "attributes": Attributes,
    "methods": bent,
    "module's tensor": lambda v: Net(1, float(v)),
    "module's setting": lambda v: Net(v),
    "dropout": lambda v: nn.Dropout(v / 10),
    "loader": loader,
    "loader's generator": lambda v: loader(2, v),
    "data set": Pairs,
    "list": lambda v: [1, [v]],
    "long list": lambda v: [0] * 5000 + [v],
    "dictionary": lambda v: {"a": {"b": v}},
    "set": lambda v: {"a", "b", str(v)},
    "optimizer": lambda v: torchopt.adam(v / 10),
    "masked": lambda v: phiopt.normalised(torchopt.sgd(v / 10)),
    "lift": lambda v: phiopt.lift.Compose(phiopt.lift.Pad((v,))),
    "loss": lambda v: nn.CrossEntropyLoss(label_smoothing=v / 10, reduction="none"),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_what_differs_is_described_differently_and_the_same_alike(make):
    one, again, other = (described("it", make(v)) for v in (1, 1, 2))
    assert one == again
    assert one != other
    assert all(name.startswith("it") and len(text) < 150 for name, text in one.items())


def test_what_a_function_uses_of_its_file_counts(monkeypatch):
    before = [described("it", f) for f in (by_global, helped)]
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    monkeypatch.setitem(globals(), "helper", lambda x: x + 2)
    after = [described("it", f) for f in (by_global, helped)]
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert described("it", by_global, attributes=False) != after[0]


def test_what_holds_itself_is_described():
    ring = [1]
    ring.append(ring)
    assert described("it", ring) == {"it": "list of 2", "it.0": "1", "it.1": "as it"}

    def recursive():
        return recursive

    assert described("it", recursive)["it.recursive"] == "as it"


def test_mappings_are_described_by_their_entries():
    values = [
        UserDict(x=torch.arange(100.0).index_fill(0, torch.tensor(50), v)) for v in (0.0, 1.0)
    ]
    first, second = (described("data", value)["data.x"] for value in values)
    assert first != second
    assert first == described("data", dict(values[0]))["data.x"]


@pytest.mark.slow
def test_another_process_describes_alike():
    """Whatever its hashes of strings are, by which sets are ordered."""
    code = (
        "import torchopt; from phiopt._described import described;"
        "print(described('it', [{'a', 'b', 'c', 'd'}, torchopt.adam(.1), lambda x: x in {'a', 'b'}]))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
