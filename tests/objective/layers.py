"""A net with a layer given as a function, and the check of its gradient."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from phiopt.objective import pure_model
from phiopt.objective.mean_loss import Task
from phiopt.objective.verify import verify_gradient
from tests.cases import mlp, randn

PLAIN = partial(F.cross_entropy, reduction="none")
X, Y = randn(2, 4), torch.tensor([0, 2])


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def net(function):
    first, last = mlp(4, 5, seed=1), mlp(5, 3, seed=2)
    return nn.Sequential(first, nn.Sequential(nn.Tanh(), Calling(function)), last)


def verify(module, x=X, loss=PLAIN, y=Y, weights=("lambdas.task",), further=False):
    module = module.eval()
    params = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
    task = Task(pure_model(module, lambda x: x), loss, x, y)
    verify_gradient(module, lambda x: x, task, params, weights, checked_further=further)
