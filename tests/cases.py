"""Ground truth: small float64 problems whose derivatives and minimisers are known otherwise."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from phiopt.data import Data
from phiopt.objective import (
    CurvatureTerm,
    Frobenius,
    Gaussian,
    Lambdas,
    NoiseTerm,
    Objective,
    Uniform,
    paper_objective,
    pure_model,
    student_loss,
)

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Stackable:
    """A problem to be solved together with others: see `phiopt.solve.StackableProblem`."""

    objective: Objective
    start: dict
    seed: int = 0
    constants: dict = field(default_factory=dict)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def mlp(*sizes, seed=0, activation=nn.Tanh):
    """A fully connected net in float64 with seeded weights, not from the global generator."""
    layers = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.utils.skip_init(nn.Linear, n_in, n_out, dtype=torch.float64), activation()]
    net = nn.Sequential(*layers[:-1])
    source = generator(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=source, dtype=p.dtype) / p.shape[-1] ** 0.5)
    return net


def parameters(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def first_slices(teacher):
    """w[u] where the teacher's coordinates come first on every axis."""
    places = {name: tuple(slice(n) for n in p.shape) for name, p in teacher.items()}
    return lambda w: {name: w[name][places[name]] for name in teacher if name in w}


def classification(lambdas=(0.3, 0.2, 0.3, 0.2), *, neighbourhood=None, curvature=None, count=12):
    """A smooth 4-3-2 teacher in a 4-5-3 student, and the student's parameters."""
    teacher, student = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    u = parameters(teacher)
    y = torch.randint(2, (count,), generator=generator(4))
    objective = paper_objective(
        model=pure_model(student, lambda x: x),
        teacher=u,
        extract=first_slices(u),
        loss=student_loss(None, torch.arange(2), 1, restrict=False),
        lambdas=Lambdas.of(lambdas),
        data=Data((randn(count, 4, seed=3), y), CPU, torch.float64),
        neighbourhood=neighbourhood or Uniform(0.3, samples=2),
        curvature=curvature or Frobenius(probes=2),
    )
    return objective, parameters(student)


def changed(objective, **changes):
    """The objective with other fields, of its own or of the paper's terms: ``teacher`` and ``extract``,
    ``neighbourhood``, ``curvature``.
    """
    for name, kind in (("neighbourhood", NoiseTerm), ("curvature", CurvatureTerm)):
        if name in changes:
            objective = objective.with_term(kind(changes.pop(name)))
    own = {name: changes.pop(name) for name in ("teacher", "extract") if name in changes}
    if own:
        objective = objective.with_term(replace(objective.term("proximity"), **own))
    return replace(objective, **changes)


def flatten(params):
    return torch.cat([p.reshape(-1) for p in params.values()])


def unflatten(vector, like):
    pieces = vector.split([prod(p.shape) for p in like.values()])
    return {name: v.view(p.shape) for (name, p), v in zip(like.items(), pieces, strict=True)}


def dense_hessian(loss, params):
    """The whole Hessian of ``loss`` at ``params``, by forward over reverse mode."""
    return torch.func.hessian(lambda v: loss(unflatten(v, params)))(flatten(params))


def plain_mlp(params, x):
    """The student of `classification`, written out."""
    hidden = torch.tanh(x @ params["0.weight"].T + params["0.bias"])
    return hidden @ params["2.weight"].T + params["2.bias"]


def plain_setting():
    """The plain loss of `classification` as a function of the parameters, and the parameters."""
    objective, params = classification()
    x, y = objective.data.example
    return (lambda w: plain_loss(w, x, y)), params


def plain_loss(params, x, y):
    return cross_entropy(plain_mlp(params, x), y)


@dataclass
class Ridge:
    """φ for a linear student f(x, w) = x w with squared loss and Gaussian noise: a linear system.

    With the teacher's coordinates first (mask M) and frozen noise X'_s = X + δ E_s,

        (λ1 XᵀX/m + λ2 M + λ3 Σ_s X'_sᵀX'_s/(m S)) w = λ1 Xᵀy/m + λ2 M u + λ3 Σ_s X'_sᵀy/(m S)

    and the Hessian XᵀX/m · 2 does not depend on w. In expectation over the noise XᵀX/m + δ² I takes
    the place of the sum.
    """

    lambdas: Lambdas
    delta: float
    samples: int
    x: Tensor
    y: Tensor
    u: Tensor
    width: int

    def inputs(self):
        """λ, δ and u by themselves, as tensors that require grad."""
        numbers = ((0.4, 0.2, 0.3, 0.1), 0.5)
        lambdas, delta = (torch.tensor(value, dtype=torch.float64) for value in numbers)
        return [value.requires_grad_() for value in (lambdas, delta, self.u.clone())]

    def objective(self):
        model = nn.utils.skip_init(nn.Linear, self.width, 1, bias=False, dtype=torch.float64)
        teacher = {"weight": self.u[None]}
        return paper_objective(
            model=pure_model(model, lambda x: x),
            teacher=teacher,
            extract=first_slices(teacher),
            loss=lambda outputs, targets: (outputs[:, 0] - targets) ** 2,
            lambdas=self.lambdas,
            data=Data((self.x, self.y), CPU, torch.float64),
            neighbourhood=Gaussian(self.delta, samples=self.samples),
        )

    @property
    def start(self):
        return {"weight": randn(1, self.width, seed=9)}

    def argmin(self, noise=None):
        """w for the frozen standardised ``noise`` (samples, m, n), or None: in expectation."""
        x, y, m = self.x, self.y, len(self.x)
        gram, moment = x.T @ x / m, x.T @ y / m
        if noise is None:
            noisy_gram = gram + self.delta**2 * torch.eye(self.width, dtype=x.dtype)
            noisy_moment = moment
        else:
            noisy = x + self.delta * noise
            noisy_gram = torch.einsum("smi,smj->ij", noisy, noisy) / (m * self.samples)
            noisy_moment = torch.einsum("smi,m->i", noisy, y) / (m * self.samples)
        carried = torch.zeros(self.width, dtype=x.dtype)
        carried[: len(self.u)] = 1
        padded = torch.zeros_like(carried)
        padded[: len(self.u)] = self.u
        w = self.lambdas
        system = w.task * gram + w.proximity * carried.diag() + w.noise * noisy_gram
        return torch.linalg.solve(
            system, w.task * moment + w.proximity * padded + w.noise * noisy_moment
        )


def ridge(samples=3, delta=0.5, lambdas=(0.4, 0.2, 0.3, 0.1)):
    return Ridge(
        Lambdas.of(lambdas),
        delta,
        samples,
        randn(20, 6, seed=5),
        randn(20, seed=6),
        randn(4, seed=7),
        6,
    )


def logistic(lambdas=(0.7, 0.3, 0, 0)):
    """Ridge-regularised logistic regression: a linear 5-to-3 student, a teacher of all its weights.

    Its objective is convex, with a definite Hessian.
    """
    teacher, student = mlp(5, 3, seed=1), mlp(5, 3, seed=2)
    u = parameters(teacher)
    objective = paper_objective(
        model=pure_model(student, lambda x: x),
        teacher=u,
        extract=first_slices(u),
        loss=student_loss(None, torch.arange(3), 1, restrict=False),
        lambdas=Lambdas.of(lambdas),
        data=Data((randn(40, 5, seed=3), torch.arange(40) % 3), CPU, torch.float64),
    )
    return objective, parameters(student)
