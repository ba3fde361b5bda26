"""Outer problems whose hypergradients are known otherwise."""

from dataclasses import replace

import torch

from phiopt.bilevel import AdjointError
from phiopt.data import Data
from phiopt.objective import Frobenius, Gaussian, Lambdas, NoiseTerm, paper_objective, pure_model
from tests.cases import CPU, first_slices, mlp, parameters, randn

LAMBDAS = (0.25, 0.375, 0.25, 0.125)


def regression(count=30):
    """A smooth 3-2-2 teacher in a 3-3-2 student with squared loss: minimisers are isolated."""
    teacher, student = mlp(3, 2, 2, seed=1), mlp(3, 3, 2, seed=2)
    u = parameters(teacher)
    objective = paper_objective(
        model=pure_model(student, lambda x: x),
        teacher=u,
        extract=first_slices(u),
        loss=lambda outputs, targets: ((outputs - targets) ** 2).mean(1),
        lambdas=Lambdas.of(LAMBDAS),
        data=Data((randn(count, 3, seed=3), randn(count, 2, seed=4)), CPU, torch.float64),
        neighbourhood=Gaussian(0.3, samples=1),
        curvature=Frobenius(probes=1),
    )
    return objective, parameters(student)


def at(objective, theta):
    """The objective with λ, δ and u from a dictionary of tensors."""
    moved = {f"teacher.{k[2:]}": v for k, v in theta.items() if k.startswith("u.")}
    noise = replace(objective.term("noise").neighbourhood, delta=theta["delta"])
    objective = replace(objective, lambdas=Lambdas.of(theta["lambdas"]))
    return objective.with_term(NoiseTerm(noise)).with_tensors(moved)


def inputs(objective, lambdas=LAMBDAS):
    """θ = (λ, δ, u) as tensors that require grad."""
    theta = {
        "lambdas": torch.tensor(lambdas, dtype=torch.float64),
        "delta": torch.tensor(objective.term("noise").neighbourhood.delta, dtype=torch.float64),
        **{f"u.{name}": value for name, value in objective.term("proximity").teacher.items()},
    }
    return {name: value.clone().requires_grad_() for name, value in theta.items()}


def directions(theta, seed=0):
    """A random tangent for each input; λ's stays on the simplex."""
    tangents = {
        k: randn(v.numel(), seed=seed + i).view(v.shape) for i, (k, v) in enumerate(theta.items())
    }
    tangents["lambdas"] = tangents["lambdas"] - tangents["lambdas"].mean()
    return tangents


def outer(params):
    """A scalar of w1 in which no coordinate weighs as another."""
    flat = torch.cat([p.reshape(-1) for p in params.values()])
    weights = torch.linspace(0.5, 2, len(flat), dtype=flat.dtype, device=flat.device)
    return (weights * (flat - 0.3) ** 2).sum()


def groups(theta):
    """λ, δ and u, each by its names in θ."""
    u = [name for name in theta if name.startswith("u.")]
    return {"lambdas": ["lambdas"], "delta": ["delta"], "u": u}


def slopes(solve, theta, step):
    """Central differences of ``outer(solve(θ))`` along a direction in λ, in δ and in u."""
    tangents = directions(theta)

    def moved(names, by):
        return {k: v.detach() + (by * tangents[k] if k in names else 0) for k, v in theta.items()}

    return {
        name: float(outer(solve(moved(names, step))) - outer(solve(moved(names, -step))))
        / (2 * step)
        for name, names in groups(theta).items()
    }


def claimed(solve, theta):
    """The same slopes by the adjoint."""
    gradient = torch.autograd.grad(outer(solve(theta)), list(theta.values()))
    along = {
        k: float((g * directions(theta)[k]).sum()) for k, g in zip(theta, gradient, strict=True)
    }
    return {name: sum(along[k] for k in names) for name, names in groups(theta).items()}


class Refused(torch.autograd.Function):
    """The identity, whose derivative is refused."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, cotangent):
        raise AdjointError("refused")
