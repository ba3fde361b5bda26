import torch

from phiopt.objective.examples import telling_examples
from tests.cases import randn


def test_few_examples_are_all_taken():
    for count in (1, 2, 9):
        places = telling_examples(randn(count, 3), torch.zeros(count, dtype=torch.long))
        assert places.tolist() == list(range(count))


def test_every_label_both_ends_and_the_largest_input_are_among_them():
    inputs, targets = randn(1000, 2, 3), torch.arange(1000) // 100
    targets[777] = 99
    inputs[501, 1, 2] = -50.0
    inputs[502] = 0.0
    places = telling_examples(inputs, targets)
    assert set(targets[places].tolist()) == set(targets.tolist())
    assert {0, 501, 502, 777, 999} <= set(places.tolist())
    assert len(places) <= 32
    assert places.tolist() == sorted(set(places.tolist()))


def test_there_are_32_at_most_of_any_kind_of_data():
    for inputs in (randn(5000, 3), torch.randint(9, (5000, 7)), randn(5000), randn(5000, 0)):
        for targets in (torch.arange(5000), randn(5000), torch.zeros(5000, 4, dtype=torch.long)):
            places = telling_examples(inputs, targets)
            assert 8 <= len(places) <= 32
