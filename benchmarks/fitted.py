"""Small nets fitted to the digits 0 to 4, their dense Hessian, and the error of a statistic of draws."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.func import vmap

from benchmarks.quality import digits, mlp, train
from phiopt._types import Params
from phiopt._vector import to_params, to_vector
from phiopt.data import Data
from phiopt.derivatives import linearise
from phiopt.objective import (
    CurvatureTerm,
    Frobenius,
    Lambdas,
    Objective,
    Sample,
    Stream,
    Task,
    paper_objective,
    pure_model,
    student_loss,
)

NETS = {"tanh": nn.Tanh, "ReLU": nn.ReLU}
EPOCHS = 150
BATCH = 128
GROUPS = 20  # of draws, for the jackknife
EXACT = Frobenius(batch=None)


@dataclass(frozen=True, eq=False)
class Net:
    """A fitted net as φ sees it, with nothing but the curvature for its objective."""

    objective: Objective
    params: Params
    inputs: Tensor
    targets: Tensor
    hessian: Tensor

    def sample(self, curvature: Frobenius, seed: int, number: int) -> Sample:
        """Of a solver's step."""
        objective = self.objective.with_term(CurvatureTerm(curvature))
        return objective.sample(self.params, BATCH, seed, Stream.STEP, number)

    def batch(self, seed: int, number: int) -> tuple[Task, Params]:
        """The batch and the probe of an exact step."""
        inputs, targets, _, probes, *_ = self.sample(EXACT, seed, number)
        assert inputs is not None
        assert targets is not None
        assert probes is not None
        return Task(self.objective.model, self.objective.loss, inputs, targets), probes


@cache
@torch.enable_grad()
def fitted(name: str, seed: int) -> Net:
    torch.manual_seed(seed)
    x, y, classes = digits()
    module = mlp(16, classes, NETS[name])
    train(module, x, y, EPOCHS)
    params = {name: p.detach() for name, p in module.double().named_parameters()}
    objective = paper_objective(
        model=pure_model(module, lambda inputs: inputs),
        teacher=params,  # so that the proximity is 0, with its gradient
        extract=dict,
        loss=student_loss(None, torch.arange(classes), 1, restrict=False),
        lambdas=Lambdas(0, 0.5, 0, 0.5),
        data=Data((x.double(), y), torch.device("cpu"), torch.float64),
    )
    whole = Task(objective.model, objective.loss, x.double(), y)
    return Net(objective, params, x.double(), y, dense(whole, params))


def dense(task: Task, params: Params) -> Tensor:
    """H, by its products with the unit vectors."""
    product = linearise(task, params).hvp
    unit = torch.eye(len(to_vector(params)), dtype=torch.float64)
    return vmap(lambda v: to_vector(product(to_params(v, params))), chunk_size=64)(unit)


def jackknife(statistic: Callable[[Tensor], Tensor], draws: Tensor) -> str:
    """The statistic of the draws ± its standard error."""
    group = torch.arange(len(draws)) % GROUPS
    without = torch.stack([statistic(draws[group != g]) for g in range(GROUPS)])
    error = (without.var(correction=0) * (GROUPS - 1)).sqrt()
    return f"{statistic(draws):.2f} ± {error:.2f}"
