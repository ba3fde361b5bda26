"""Samples that do not keep random numbers as large as the parameters: these are drawn again at each use."""

from dataclasses import replace

import pytest
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.test_gradient_cost import Peak
from phiopt.data import Data
from phiopt.objective import Stream
from tests.cases import CPU, classification, generator, randn

QUARTERS = (0.25, 0.25, 0.25, 0.25)


def same(first, second):
    first, second = (
        [leaf for leaf in tree_leaves(sample[:3]) if isinstance(leaf, torch.Tensor)]
        for sample in (first, second)
    )
    return len(first) == len(second) and all(map(torch.equal, first, second))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lambdas", [QUARTERS, (0.5, 0.5, 0, 0), (0.4, 0.3, 0, 0.3)], ids=str)
def test_each_use_gives_the_sample_that_is_drawn_at_once(lambdas, weighted):
    objective, params = classification(lambdas, count=40)
    samples = objective.samples(params, 16, 3, Stream.HELD_OUT, range(4), weighted=weighted)
    assert len(samples) == 4
    for number in (2, 0, 2):
        kept = objective.sample(params, 16, 3, Stream.HELD_OUT, number, weighted=weighted)
        assert same(samples[number], kept)
    assert [len(part) for part in (samples[:1], samples[1:], samples[:1] + samples[2:])] == [
        1,
        3,
        3,
    ]
    assert same((samples[:1] + samples[2:])[1], samples[2])
    if weighted:
        assert list(samples[0].draws) == objective.active
    else:
        assert list(samples[0].draws) == objective.names


def test_a_loaders_batches_are_read_once():
    objective, params = classification(QUARTERS)
    x, y = randn(40, 4, seed=1), torch.randint(2, (40,), generator=generator(2))
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    objective = replace(objective, data=Data(loader, CPU, torch.float64))
    samples = objective.samples(params, 16, 0, Stream.FRESH, range(2))
    assert torch.equal(samples[0].inputs, x[:16])
    assert torch.equal(samples[1].inputs, x[16:32])
    assert torch.equal(samples[0].inputs, x[:16])


def test_the_global_generators_are_not_touched():
    objective, params = classification(QUARTERS)
    state = torch.get_rng_state()
    samples = objective.samples(params, None, 0, Stream.FRESH, range(2))
    assert same(samples[1], samples[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_kept_is_smaller_than_the_parameters():
    objective, params = classification(QUARTERS)
    large = {name: torch.zeros(300, *p.shape, dtype=p.dtype) for name, p in params.items()}
    size = sum(p.numel() * p.element_size() for p in large.values())
    with Peak() as peak:
        samples = objective.samples(large, None, 0, Stream.FRESH, range(8))
    assert len(samples) == 8
    assert peak.bytes < 4 * size  # of each, one draw at a time
