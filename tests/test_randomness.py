"""The same seed gives the same numbers, wherever a data set draws at random, and leaves no trace."""

import multiprocessing
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

import phiopt
from phiopt._randomness import preserved_randomness
from phiopt.bilevel import SearchStatus
from phiopt.data import Data

CPU = torch.device("cpu")
X = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3


def from_torch():
    return torch.randn(6)


def from_python():
    return torch.tensor([random.gauss(0, 1) for _ in range(6)])


def from_numpy():
    return torch.as_tensor(np.random.randn(6))  # noqa: NPY002  (the global generator is what is meant)


class Noisy(Dataset):
    def __init__(self, noise=from_torch):
        self.noise = noise

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + self.noise(), Y[i]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(x + torch.randn(6), y) for x, y in zip(X, Y, strict=True)])


class Own:
    """Noise by a generator that the data set holds, under an attribute of any name."""

    def __init__(self, kind):
        self.within = {"deep": [kind]}

    def __call__(self):
        generator = self.within["deep"][0]
        if isinstance(generator, torch.Generator):
            return torch.randn(6, generator=generator)
        if isinstance(generator, random.Random):
            return torch.tensor([generator.gauss(0, 1) for _ in range(6)])
        return torch.as_tensor(generator.normal(size=6))


def in_a_closure(generator):
    return lambda: torch.randn(6, generator=generator)


def drawn_at_start(worker):
    np.random.seed(torch.initial_seed() % 2**32)  # noqa: NPY002


def loader(source=None, **options):
    return DataLoader(Noisy() if source is None else source, 4, **options)


KEPT = {"num_workers": 1, "persistent_workers": True}
SOURCES = {
    "a data set": Noisy(),
    "of Python's": Noisy(from_python),
    "of NumPy's": Noisy(from_numpy),
    "own of torch": Noisy(Own(torch.Generator().manual_seed(3))),
    "own of NumPy": Subset(Noisy(Own(np.random.default_rng(3))), range(9)),
    "own, old NumPy": loader(Noisy(Own(np.random.RandomState(3)))),
    "own of Python": loader(Noisy(Own(random.Random(3)))),
    "in a closure": loader(Noisy(in_a_closure(torch.Generator().manual_seed(3)))),
    "without workers": loader(shuffle=True),
    "a worker": loader(num_workers=1, shuffle=True),
    "persistent": loader(**KEPT),
    "persistent, shuffled": loader(**KEPT, shuffle=True),
    "persistent, prefetched": loader(num_workers=2, persistent_workers=True, prefetch_factor=3),
    "persistent, own": loader(**KEPT, shuffle=True, generator=torch.Generator().manual_seed(5)),
    "persistent, NumPy": loader(Noisy(from_numpy), **KEPT, worker_init_fn=drawn_at_start),
    "persistent stream": loader(Stream(), num_workers=2, persistent_workers=True),
    "in any order": loader(num_workers=2, in_order=False),
}


def read(source, seed=5):
    """Batches of more than a pass, and then a whole one."""
    with preserved_randomness(source, CPU, seed):
        data, generator = Data(source, CPU, torch.float32), torch.Generator().manual_seed(0)
        parts = [data.batch(4, generator)[0] for _ in range(4)]
        return torch.cat([*parts, data.batch(None, generator)[0]])


QUICK = ("persistent", "persistent stream", "persistent, own")
"""Of those whose workers take a while to start."""


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in QUICK or not getattr(source, "num_workers", 0)
        else pytest.param(name, marks=pytest.mark.slow)
        for name, source in SOURCES.items()
    ],
)
def test_the_same_seed_reads_the_same_and_another_does_not(name):
    source = SOURCES[name]
    first = read(source)
    torch.randn(3), random.random(), np.random.rand()  # noqa: NPY002
    assert torch.equal(first, read(source))
    if not name.startswith(("own", "in a closure")) and name not in QUICK[1:]:
        assert not torch.equal(first, read(source, seed=6))


def test_a_persistent_loader_that_is_in_use_goes_on():
    kept = loader(**KEPT)
    others = iter(kept)
    seen = [next(others)[1]]
    read(kept)
    seen += [y for _, y in others]
    assert torch.equal(torch.cat(seen), Y)


def test_generators_are_put_back_and_workers_end():
    own = torch.Generator().manual_seed(3)
    before = own.get_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    running = len(multiprocessing.active_children())
    read(Noisy(Own(own)))
    read(Noisy(from_python))
    read(Noisy(from_numpy))
    read(loader(num_workers=1))
    assert torch.equal(own.get_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002
    assert len(multiprocessing.active_children()) == running


class Twice:
    """A search that looks at its start twice."""

    adjoint = None

    def run(self, evaluate, space, seed):
        assert evaluate(space.start).value == evaluate(space.start).value
        return SearchStatus.BUDGET_SPENT


@pytest.mark.slow
def test_persistent_workers_give_a_solve_and_a_search_the_same_numbers():
    teacher = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    student = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
    data, few = loader(**KEPT), phiopt.TorchOpt(steps=2)
    robust = [phiopt.criteria.robustness(student, data, phiopt.Uniform(0.1)) for _ in range(2)]
    assert robust[0] == robust[1]
    outer = phiopt.OuterLoss(data)
    weights = (0.5, 0.5, 0, 0)
    result = phiopt.learn(
        teacher, student, data, outer, lambdas=weights, search=Twice(), solver=few
    )
    assert result.path[0].outer == result.path[1].outer
