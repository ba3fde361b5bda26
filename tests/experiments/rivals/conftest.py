"""Every rival is tried on the growth of an MLP and of a CNN."""

import pytest

from tests.experiments.rivals.problems import NETS, growth_of


@pytest.fixture(params=[pytest.param(n, marks=[pytest.mark.slow] * (n == "cnn")) for n in NETS])
def growth(request):
    """A growth of an MLP and of a CNN, both layers and the classes wider."""
    return growth_of(request.param)
