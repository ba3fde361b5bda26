"""The data sets: parts that do not overlap, the same test part for every seed, clear refusals."""

import os
from pathlib import Path

import pytest
import torch

from experiments.checks import ROOT_VARIABLE, data_root
from experiments.data import Examples, digits, fashion_mnist, split
from experiments.errors import UsageError


def numbered(count):
    """Examples that can be told apart."""
    return Examples(torch.arange(count).reshape(-1, 1, 1, 1).float(), torch.arange(count) % 3)


def test_parts_share_nothing_and_lose_nothing():
    splits = split(numbered(50), numbered(5), validation=10, seed=0)
    parts = torch.cat([splits.train.x, splits.validation.x]).flatten()
    assert len(splits.validation.x) == 10
    assert parts.sort().values.tolist() == list(range(50))
    assert torch.equal(splits.test.x, numbered(5).x)


def test_seeds_change_validation_and_a_limit_keeps_it():
    first = split(numbered(50), numbered(5), validation=10, seed=0)
    again = split(numbered(50), numbered(5), validation=10, seed=0, limit=7)
    other = split(numbered(50), numbered(5), validation=10, seed=1)
    assert torch.equal(first.validation.x, again.validation.x)
    assert len(again.train.x) == 7
    assert not torch.equal(first.validation.x, other.validation.x)


def test_a_split_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="there are 50 examples"):
        split(numbered(50), numbered(5), validation=45, seed=0, limit=6)


def test_a_subset_of_classes_is_renumbered_in_the_order_given():
    subset = numbered(9).of((2, 0))
    assert subset.x.flatten().tolist() == [0, 2, 3, 5, 6, 8]
    assert subset.y.tolist() == [1, 0, 1, 0, 1, 0]


def test_digits_are_images_in_the_unit_range_with_a_fixed_test_part():
    splits, others = digits(0), digits(1)
    assert sum(len(part.x) for part in splits) == 1797
    assert splits.train.x.shape[1:] == (1, 8, 8)
    assert splits.train.x.min() == 0
    assert splits.train.x.max() == 1
    assert set(splits.test.y.tolist()) == set(range(10))
    assert torch.equal(splits.test.x, others.test.x)
    assert not torch.equal(splits.validation.x, others.validation.x)


def test_a_missing_root_says_how_to_get_the_data(tmp_path):
    with pytest.raises(UsageError, match=r"FashionMNIST.raw; --download"):
        fashion_mnist(tmp_path)


def test_the_root_is_the_argument_else_the_variable_else_an_error(monkeypatch):
    monkeypatch.setenv(ROOT_VARIABLE, "named")
    assert data_root(Path("given")) == Path("given")
    assert data_root(None) == Path("named")
    monkeypatch.delenv(ROOT_VARIABLE)
    with pytest.raises(UsageError, match=f"--data ROOT or {ROOT_VARIABLE}"):
        data_root(None)


@pytest.mark.skipif(ROOT_VARIABLE not in os.environ, reason=f"{ROOT_VARIABLE} names no data root")
def test_fashion_mnist_is_read_whole():
    train, test = fashion_mnist(data_root(None))
    assert train.x.shape == (60_000, 1, 28, 28)
    assert test.x.shape == (10_000, 1, 28, 28)
    assert torch.equal(train.y.bincount(), torch.full((10,), 6000))
    assert (train.x.min(), train.x.max()) == (0, 1)
    # The set's published mean intensity.
    assert train.x.mean().item() == pytest.approx(0.2860, abs=1e-4)
