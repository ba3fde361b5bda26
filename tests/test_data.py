import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, StackDataset, TensorDataset

from phiopt._randomness import preserved_randomness
from phiopt.data import Data
from tests.cases import CPU, generator, randn

X, Y = randn(10, 3), torch.arange(10) % 3


class Pairs(Dataset):
    """A data set that is not backed by tensors."""

    def __init__(self, x=X, y=Y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(self.y[i])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Pairs())


def loader(**options):
    return DataLoader(TensorDataset(X, Y), **{"batch_size": 4} | options)


def data(source, dtype=torch.float64):
    return Data(source, CPU, dtype)


SOURCES = {
    "tensors": (X, Y),
    "list": [X, Y],
    "tensor data set": TensorDataset(X, Y),
    "data set": Pairs(),
    "loader": loader(),
    "loader of a stream": DataLoader(Stream(), batch_size=4),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_none_gives_all_in_order_in_the_models_dtype(source):
    x, y = data(source, torch.float32).batch(None, generator())
    assert torch.equal(x, X.float())
    assert torch.equal(y, Y)
    assert y.dtype == torch.int64


@pytest.mark.parametrize("name", ["tensors", "tensor data set", "data set"])
def test_a_batch_is_of_different_examples_and_repeats_with_its_generator(name):
    d = data(SOURCES[name])
    x, y = d.batch(6, generator(1))
    assert x.shape == (6, 3)
    rows = [int((row == X).all(1).nonzero()) for row in x]
    assert len(set(rows)) == 6
    assert torch.equal(y, Y[rows])
    assert torch.equal(d.batch(6, generator(1))[0], x)
    assert not torch.equal(d.batch(6, generator(2))[0], x)
    assert len(d.batch(99, generator())[0]) == 10


def test_a_loader_gives_its_own_batches_again_and_again():
    d = data(loader())
    assert torch.equal(d.example[0], X[:4])
    seen = [d.batch(128, generator())[0] for _ in range(5)]
    for batch, rows in zip(seen, [X[:4], X[4:8], X[8:], X[:4], X[4:8]], strict=True):
        assert torch.equal(batch, rows)


def test_a_pass_of_batches_that_do_not_join_is_named():
    items = [(torch.zeros(2, 3 + i), torch.zeros(2)) for i in range(2)]
    d = data(DataLoader(items, batch_size=None))
    with pytest.raises(ValueError, match=r"loader's inputs are of shapes \[\(3,\), \(4,\)\]"):
        d.batch(None, generator())


def test_integer_inputs_stay_and_small_integer_targets_become_indices():
    x, y = data((torch.arange(6).view(3, 2), torch.tensor([0, 1, 2], dtype=torch.uint8))).example
    assert x.dtype == y.dtype == torch.int64


def test_real_targets_take_the_models_dtype():
    assert data((X, X.float())).example[1].dtype == torch.float64


class Ragged(Pairs):
    def __getitem__(self, i):
        return torch.zeros(i), 0


class Endless(Dataset):
    def __getitem__(self, i):
        return X[0], 0


class Once(IterableDataset):
    """A stream that is over after its first pass, as a generator is."""

    def __init__(self):
        self.items = iter(Pairs())

    def __iter__(self):
        return self.items


BAD = {
    "nan": ((X / 0, Y), ValueError, "inputs hold NaN or infinity"),
    "nan targets": ((X, torch.full((10,), torch.nan)), ValueError, "targets hold NaN"),
    "lengths": ((X, Y[:9]), ValueError, "10 inputs and 9 targets"),
    "empty": ((X[:0], Y[:0]), ValueError, "data: empty"),
    "three": ((X, Y, Y), TypeError, "got 3 parts"),
    "strings": ((["a", "b"], Y[:2]), TypeError, "inputs are list, must be a Tensor, an array"),
    "a tensor": (X, TypeError, "got Tensor, must be"),
    "numbers": ((torch.tensor(1.0), torch.tensor(1)), ValueError, "must have a batch axis"),
    "stream": (Stream(), TypeError, "wrap it in a DataLoader"),
    "empty set": (Pairs(X[:0], Y[:0]), ValueError, "data: empty"),
    "empty loader": (DataLoader(Pairs(X[:0], Y[:0])), ValueError, "the loader is empty"),
    "endless": (Endless(), TypeError, r"Endless has no len\(\)"),
    "ragged": (Ragged(), TypeError, "examples do not stack into a batch: .*equal size"),
    "meta": ((X.to("meta"), Y), TypeError, "inputs are on meta, must be plain"),
    "sparse": ((X, torch.eye(10).to_sparse()), TypeError, "targets are .*sparse_coo, must be"),
    "images": (Pairs(["an image"] * 10), TypeError, "the data set's inputs are str"),
    "unlabelled": (list(X), TypeError, "got 10 parts"),
    "unlabelled set": (TensorDataset(X), TypeError, "got 1 parts"),
    "named parts": (StackDataset(x=X, y=Y), TypeError, "is dict, each must be a pair .*collate_fn"),
    "items": (DataLoader(list(X), batch_size=2), TypeError, "got Tensor, must be a pair"),
}


@pytest.mark.parametrize(("source", "error", "message"), BAD.values(), ids=BAD)
def test_bad_data_is_refused_with_its_rule(source, error, message):
    with pytest.raises(error, match=message):
        data(source)


def test_a_loader_that_cannot_go_round_is_told_by_its_pass():
    kept = data(DataLoader(Once(), batch_size=5))
    for _ in range(2):
        kept.batch(5, generator(0))
    with pytest.raises(ValueError, match="empty on pass 2, must give its batches again"):
        kept.batch(5, generator(0))


def test_bad_batches_of_a_data_set_are_found_when_they_are_read():
    x = X.clone()
    x[7] = torch.nan
    d = data(Pairs(x))
    with pytest.raises(ValueError, match="NaN"):
        d.batch(None, generator())


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "data set"])
def test_labels_are_checked_once_classes_are_known(name):
    d = data(SOURCES[name])
    d.expect_classes(3)
    with pytest.raises(ValueError, match=r"labels from 0 to 2, must lie in 0 \.\.\. 1"):
        d.expect_classes(2)


def test_labels_of_later_batches_are_checked_too():
    d = data(Pairs(y=torch.tensor([0, 1] * 4 + [0, 5])))
    d.expect_classes(2)
    with pytest.raises(ValueError, match="labels from 0 to 5"):
        d.batch(None, generator())
    with pytest.raises(TypeError, match=r"targets are torch.float64, must be integer"):
        data((X, X)).expect_classes(3)


def test_randomness_is_seeded_within_and_put_back_after():
    own = torch.Generator().manual_seed(3)
    shuffled = loader(shuffle=True, generator=own)
    plain = loader(shuffle=True)
    before = torch.get_rng_state(), own.get_state()

    def order(source):
        with preserved_randomness(source, CPU, seed=5):
            return data(source).batch(None, generator())[0]

    assert torch.equal(order(shuffled), order(shuffled))
    assert torch.equal(order(plain), order(plain))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(own.get_state(), before[1])
    with pytest.raises(KeyError), preserved_randomness(shuffled, CPU, 0):  # noqa: PT012
        next(iter(shuffled))
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(own.get_state(), before[1])


def test_a_data_set_is_looked_at_all_over():
    class Sorted(Dataset):
        def __len__(self):
            return 1000

        def __getitem__(self, i):
            return torch.tensor([float(i)]), i // 100

    inputs, labels = data(Sorted()).spread()
    assert inputs[[0, -1], 0].tolist() == [0, 999]
    assert set(labels.tolist()) == set(range(10))
