"""Finite differences and kinks."""

import pytest
import torch

from phiopt.derivatives.orders import ORDERS, derivative_orders
from tests.cases import randn
from tests.functions import Forgetful

AT = randn(200, seed=9)


def folded(w):
    """A kink every few 1e-5."""
    return (torch.relu((1e5 * w).sin()) ** 2).sum() / 1e5


@pytest.mark.parametrize("seed", [1, 2])
def test_a_difference_across_a_kink_is_no_wrong_derivative(seed):
    at_one_point = derivative_orders(folded, AT, seed)
    assert not at_one_point[2].holds
    actual = derivative_orders(folded, AT, seed, kinked=True)
    assert all(actual[order].holds for order in ORDERS)


def test_a_wrong_derivative_stays_wrong_wherever_it_is_looked_at():
    actual = derivative_orders(lambda w: Forgetful.apply(w.relu()).sin().sum(), AT, kinked=True)
    assert actual[2].error > 0.1
