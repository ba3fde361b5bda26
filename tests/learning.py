"""A small teacher, student and data for `learn`."""

import torch
import torchopt

from phiopt.bilevel.outer import OuterLoss
from phiopt.bilevel.search import Mirror
from phiopt.learn import learn
from phiopt.solve import TorchOpt
from tests.cases import generator, mlp, randn

X, Y = randn(60, 4, seed=3), torch.randint(2, (60,), generator=generator(4))
V = randn(50, 4, seed=5), torch.randint(3, (50,), generator=generator(6))
QUICK = TorchOpt(torchopt.adam(2e-2, eps_root=1e-16), steps=6, batch_size=16, check_every=6)
FEW = Mirror(budget=6)


def learned(outer=None, **options):
    small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    options = {"solver": QUICK, "search": FEW} | options
    return learn(small, large, (X, Y), outer or OuterLoss(V), **options)


def squares(outputs, targets):
    wanted = torch.nn.functional.one_hot(targets, 3).to(outputs)
    return ((outputs - wanted) ** 2).sum(1)
