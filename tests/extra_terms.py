"""Terms from outside the library, and models to solve with them."""

from typing import ClassVar

import torch
import torchopt

import phiopt
from phiopt.objective import CurvatureTerm, NoiseTerm
from tests.cases import generator, mlp, randn

X, Y = randn(60, 4, seed=3), torch.randint(2, (60,), generator=generator(4))
LAMBDAS = (0.3, 0.3, 0.2, 0.2)
QUICK = phiopt.TorchOpt(torchopt.adam(2e-2, eps_root=1e-12), steps=6, batch_size=16, check_every=6)


class Sharpness(CurvatureTerm):
    name: ClassVar[str] = "sharpness"


class Far(NoiseTerm):
    name: ClassVar[str] = "far"


def models():
    return mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
