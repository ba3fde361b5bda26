"""Data, a solver and weights for problems of four inputs and two classes."""

import torch
import torchopt

from phiopt.objective import Lambdas
from phiopt.solve import TorchOpt
from tests.cases import generator, randn

X, Y = randn(60, 4, seed=3), torch.randint(2, (60,), generator=generator(4))
SOLVER = TorchOpt(torchopt.adam(2e-2), steps=8, batch_size=16, check_every=4)
CENTRE = Lambdas(0.25, 0.25, 0.25, 0.25)
