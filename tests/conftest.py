"""What every test has in common: one thread a process, and generators at a known state."""

import os
import random

# Before PyTorch is imported, and for the processes that tests start. Tests share the cores, and nets this small
# lose more to waiting for other threads than they gain. Another number can be asked for.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    """Every test finds the three global generators at the same state, in whatever order tests run."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (the global generator is what is meant)
    torch.manual_seed(0)
