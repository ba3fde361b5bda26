"""A few steps of a solve, by an adjoint."""

import pytest
import torchopt

from phiopt.bilevel import Replay, Unroll
from phiopt.solve import TorchOpt

STEPS = TorchOpt(torchopt.sgd(0.02), steps=4, batch_size=16)
FRESH = TorchOpt(torchopt.adam(1e-2, eps_root=1e-16), steps=12, batch_size=16, check_every=12)
BOTH = pytest.mark.parametrize("adjoint", [Replay(), Unroll()], ids=str)


def solved(adjoint, objective, start, solver=STEPS):
    return adjoint.solve(solver, objective, start, seed=0, progress=False)
