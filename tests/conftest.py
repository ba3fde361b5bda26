"""What every test has in common: one thread a process, and generators and registries at a known state."""

import os
import random

# Before PyTorch is imported, and for the processes that tests start. Tests share the cores, and nets this small
# lose more to waiting for other threads than they gain. Another number can be asked for.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

from phiopt.growth.fills import FILLS


@pytest.fixture(autouse=True)
def _seeded():
    """Every test finds the three global generators at the same state, in whatever order tests run."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (the global generator is what is meant)
    # torch.manual_seed would note the stack for a CUDA that is not begun: milliseconds a test.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True)
def _fills_restored():
    """What a test or an example registers is gone after it."""
    before = dict(FILLS)
    yield
    FILLS.clear()
    FILLS.update(before)
