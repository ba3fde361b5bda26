"""Data as people have it: mappings with labels, pairs of several inputs, lists, arrays, and loaders of them."""

from collections import UserDict

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from phiopt._inputs import Several
from phiopt.data import Data, check_source
from tests.cases import CPU, generator, randn

X, Z, Y = randn(6, 3), randn(6, 2, seed=1), torch.arange(6) % 3
WHOLE = {"x": X, "z": Z, "labels": Y}


class Items(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return self.item(i)


def mapping(i):
    return {"x": X[i], "z": Z[i].numpy(), "label": int(Y[i])}


def pair(i):
    return {"x": X[i], "z": Z[i].tolist()}, Y[i]


def positional(i):
    return (X[i], Z[i].numpy()), int(Y[i])


class Stream(IterableDataset):
    def __iter__(self):
        return (mapping(i) for i in range(6))


class MapStyle:
    """Numbered examples of a class of its own, as those of the library datasets."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return mapping(i)


SOURCES = {
    "mapping": WHOLE,
    "mapping of arrays": {name: value.numpy() for name, value in WHOLE.items()},
    "UserDict": UserDict({"x": X, "z": Z, "label_ids": Y}),
    "pair with a mapping": ({"x": X, "z": Z}, Y),
    "tuple of inputs": ((X, Z.numpy()), Y),
    "list of mappings": [mapping(i) for i in range(6)],
    "list of pairs": [pair(i) for i in range(6)],
    "list of positional pairs": [positional(i) for i in range(6)],
    "data set of mappings": Items(mapping),
    "data set of pairs": Items(pair),
    "numbered": MapStyle(),
    "loader of mappings": DataLoader(Items(mapping), batch_size=4),
    "loader of pairs": DataLoader(Items(positional), batch_size=4),
    "loader of a stream": DataLoader(Stream(), batch_size=4),
}


def data(source, **options):
    return Data(source, CPU, torch.float64, **options)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_all_give_the_same_batches(source):
    check_source("data", source)
    inputs, targets = data(source).batch(None, generator())
    assert isinstance(inputs, Several)
    first, second = inputs.entries.values()
    assert torch.allclose(first, X)
    assert torch.allclose(second, Z)
    assert torch.equal(targets, Y)
    few, labels = data(source).batch(4, generator())
    assert len(few) == len(labels) == 4


@pytest.mark.parametrize("source", [(X.numpy(), Y.numpy()), list(zip(X, Y.tolist(), strict=True))])
def test_a_single_input_stays_one_tensor(source):
    inputs, targets = data(source).batch(None, generator())
    assert torch.equal(inputs, X)
    assert torch.equal(targets, Y)


def test_two_items_are_no_pair_of_inputs_and_targets():
    inputs, targets = data([(X[0], 1), (X[1], 2)]).batch(None, generator())
    assert torch.equal(inputs, X[:2])
    assert targets.tolist() == [1, 2]
    assert torch.equal(data([X, Y]).batch(None, generator())[0], X)


def test_the_users_mapping_is_not_changed():
    given = dict(WHOLE)
    values = {name: value.clone() for name, value in given.items()}
    batch = data(given).batch(None, generator())
    batch[0].named["x"].add_(0)
    assert list(given) == list(values)
    assert all(torch.equal(given[name], value) for name, value in values.items())


def test_targets_may_be_a_mapping():
    inputs, targets = data((X, {"start": Y, "end": Y.double()})).batch(None, generator())
    assert torch.equal(inputs, X)
    assert targets.named["start"].dtype == torch.int64
    assert targets.named["end"].dtype == torch.float64
    with pytest.raises(TypeError, match=r"targets are a mapping of start, end, must be one tensor"):
        data((X, {"start": Y, "end": Y})).expect_classes(3)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ({"x": X, "z": Z}, TypeError, "entries x, z has no labels, must have one of labels, label"),
        (WHOLE | {"label": Y}, TypeError, "has labels and label, must have one of"),
        ({"labels": Y}, TypeError, "must have one entry or more"),
        (
            {"x": X, "z": Z[:5], "labels": Y},
            ValueError,
            r"different lengths \(x: 6, z: 5, targets: 6\)",
        ),
        (((X, Z), Y[:4]), ValueError, r"different lengths \(0: 6, 1: 6, targets: 4\)"),
        ((X, (Y, Y)), TypeError, "targets are tuple, must be a Tensor, an array, or a mapping"),
        ((X, Z, Y), TypeError, r"got 3 parts, must be a pair .* one part, \(\(a, b\), targets\)"),
        ({"x": X / 0, "labels": Y}, ValueError, "inputs x hold NaN or infinity"),
        (
            Items(lambda i: {"x": X[i]}),
            TypeError,
            "item of the data set is dict, each must be a pair",
        ),
        (
            Items(lambda i: {"x": torch.zeros(i), "label": 0}),
            TypeError,
            r"do not stack into a batch in entry 'x': .*collate_fn",
        ),
        (
            [{"x": X[0], "label": 0}, {"z": X[0], "label": 0}],
            TypeError,
            "different entries, x, z is not in all",
        ),
        ((item for item in [(X, Y)]), TypeError, "got generator, which can be read only once"),
        (zip(X, Y, strict=True), TypeError, "got zip, which can be read only once"),
        (map(mapping, range(6)), TypeError, "got map, which can be read only once"),
        (iter([1]), TypeError, "got list_iterator, which can be read only once"),
    ],
)
def test_bad_batches_are_refused_by_their_entry(source, error, message):
    with pytest.raises(error, match=message):  # noqa: PT012
        check_source("data", source)
        data(source)


def test_a_mask_may_be_minus_infinity():
    mask = torch.full((6, 3), -torch.inf)
    inputs, _ = data({"x": X, "attention_mask": mask, "labels": Y}).example
    assert torch.equal(inputs.named["attention_mask"], mask.double())
    with pytest.raises(ValueError, match="attention_mask hold NaN"):
        data({"x": X, "attention_mask": mask * 0, "labels": Y})


def padded(lengths):
    """Batches of another length each, as a collator that pads gives them."""
    return [
        {"input_ids": torch.ones(2, n, dtype=torch.long), "labels": torch.zeros(2).long()}
        for n in lengths
    ]


def test_batches_of_different_lengths_come_one_by_one():
    loader = DataLoader(padded([3, 5, 4]), batch_size=None)
    source = data(loader)
    seen = [source.batch(2, generator())[0].named["input_ids"].shape[1] for _ in range(4)]
    assert seen == [3, 5, 4, 3]
    with pytest.raises(
        ValueError, match=r"inputs input_ids are of shapes \[\(3,\), \(4,\), \(5,\)\]"
    ):
        source.batch(None, generator())


TOKENS = torch.randint(9, (4, 5), generator=torch.Generator().manual_seed(0))


def language(labels, **more):
    return {"input_ids": TOKENS, **more, "labels": labels}


def padding(labels):
    return labels.masked_fill(torch.arange(5) > 3, -100)


def test_labels_that_are_the_input_become_the_next_tokens():
    _, targets = data(language(padding(TOKENS)), default_loss=True).example
    assert torch.equal(targets[:, :3], TOKENS[:, 1:4])
    assert (targets[:, 3:] == -100).all()


@pytest.mark.parametrize(
    ("source", "default_loss"),
    [
        (language(TOKENS), False),
        (language((TOKENS + 1) % 9), True),
        (language(TOKENS, decoder_input_ids=TOKENS), True),
        (({"input_ids": TOKENS}, TOKENS[:, 0]), True),
        (((TOKENS,), TOKENS), True),
        ((TOKENS, TOKENS), True),
        (language(torch.full_like(TOKENS, -100)), True),
    ],
)
def test_other_labels_stay(source, default_loss):
    given = source["labels"] if isinstance(source, dict) else source[1]
    assert torch.equal(data(source, default_loss=default_loss).example[1], given)


def test_labels_that_cease_to_be_the_input_are_refused():
    batches = [language(TOKENS), language((TOKENS + 1) % 9)]
    source = data(DataLoader(batches, batch_size=None), default_loss=True)
    source.batch(4, generator())
    with pytest.raises(ValueError, match="labels of the first batch are its input_ids"):
        source.batch(4, generator())


def test_labels_to_leave_out_are_known_where_inputs_have_names():
    data(language(padding(TOKENS))).expect_classes(9)
    data(({"input_ids": TOKENS}, padding(TOKENS))).expect_classes(9)
    with pytest.raises(ValueError, match="labels from -100 to"):
        data((TOKENS, padding(TOKENS))).expect_classes(9)
    with pytest.raises(ValueError, match="labels from 0 to 8, must lie in"):
        data(language(padding(TOKENS.clamp(max=8)))).expect_classes(8)
    with pytest.raises(ValueError, match="no label of the first batch counts, all are -100"):
        data(language(torch.full_like(TOKENS, -100))).expect_classes(9)


def test_arrays_that_are_not_numbers_are_named():
    with pytest.raises(TypeError, match="inputs have NumPy's dtype object, must be numbers"):
        data((np.array([None] * 6), Y))
