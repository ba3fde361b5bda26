"""One gradient of the objective as a sum over several passes."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor
from torch.func import vjp

from phiopt._types import Params
from phiopt.derivatives import by_autograd, linearise, watched
from phiopt.objective.mean_loss import Task
from phiopt.objective.term import Pass, Terms

SMALLEST = 8
"""Least number of examples in a part of a step's batch. Fewer would cost hardly less."""

_VjpWithTerms: TypeAlias = tuple[Tensor, Callable[..., tuple[Params]], Terms]
"""Of the two results that ``vjp`` may have, the one with auxiliary output."""


def gradient_of(function: Pass, params: Params) -> tuple[Tensor, Terms, Params]:
    """Value, terms and gradient of one pass."""
    if by_autograd(params):  # for a small model a transform would take twice as long
        kept = torch.is_grad_enabled()
        with torch.enable_grad():
            w = watched(params, kept)
            value, terms = function(w)
            gradients = torch.autograd.grad(
                value, list(w.values()), create_graph=kept, materialize_grads=True
            )
        gradient = dict(zip(w, gradients, strict=True))
        if kept:
            return value, terms, gradient
        return value.detach(), {name: term.detach() for name, term in terms.items()}, gradient
    value, pullback, terms = cast(_VjpWithTerms, vjp(function, params, has_aux=True))
    # torch.func.grad records its own backward pass, even where nobody can ask for more derivatives. Without
    # gradient mode vjp does not, which saves a tenth of the time.
    (gradient,) = pullback(torch.ones_like(value), retain_graph=False)
    return value, terms, gradient


def gradient_of_sum(passes: Iterable[Pass], params: Params) -> tuple[Terms, Params]:
    """Terms and gradient of Σ passes, with the graph of one pass alive at a time."""
    total: Terms = {}
    gradient: Params = {}
    for each_pass in passes:
        _, terms, part = gradient_of(each_pass, params)
        total = added(total, terms)
        gradient = added(gradient, part)
    return total, gradient


def together(passes: Sequence[Pass]) -> Pass:
    """One pass that is the sum of passes over different terms."""
    if len(passes) == 1:
        return passes[0]

    def all_of_them(w: Params) -> tuple[Tensor, Terms]:
        results = [each_pass(w) for each_pass in passes]
        terms = {name: value for _, terms in results for name, value in terms.items()}
        return torch.stack([value for value, _ in results]).sum(), terms

    return all_of_them


def hvp_of(each_pass: Pass, params: Params, vector: Params) -> Params:
    """The Hessian of one pass times a vector."""
    return linearise(lambda w: each_pass(w)[0], params).hvp(vector)


def added(total: Params, part: Params) -> Params:
    """total + part, where ``total`` may be empty."""
    return total | {name: total[name] + v if name in total else v for name, v in part.items()}


def spans(length: int, size: int | None) -> list[tuple[int, int]]:
    """Consecutive (start, stop) of at most ``size``."""
    size = size or length
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def chunks(task: Task, size: int | None) -> list[tuple[Task, float]]:
    """Parts of the batch, each with its share of the mean."""
    return [(task.part(a, b), (b - a) / len(task)) for a, b in spans(len(task), size)]
