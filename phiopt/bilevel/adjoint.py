"""What every adjoint does: solve, and let the solution carry its derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import vjp
from torchopt import pytree

from phiopt._types import Params
from phiopt.derivatives import in_transform
from phiopt.objective import Objective, Spectral
from phiopt.solve import Outcome, Solver

PullBack: TypeAlias = Callable[[Params, Params], Params]
"""``(inputs, cotangent of w1) -> cotangent of the inputs``."""


class AdjointError(RuntimeError):
    """The solution has no derivative that can be trusted; the message says why and what to do."""


class Adjoint(Protocol):
    """A way to differentiate w1 = φ(u) in λ, δ, u, ψ and the start w0."""

    def solve(
        self, solver: Solver, objective: Objective, start: Params, *, seed: int, progress: bool
    ) -> Outcome:
        """The solver's outcome, whose ``params`` are differentiable in those tensors of
        ``objective`` and ``start`` that require grad.
        """
        ...


def differentiable_inputs(objective: Objective, start: Params) -> Params:
    """The tensors that require grad, by where they sit: ``lambdas.task``, ``neighbourhood.delta``,
    ``teacher.NAME``, ``psi.NAME`` and ``start.NAME``.
    """
    found: dict[str, Any] = {f"lambdas.{n}": value for n, value in objective.lambdas.items()}
    found["neighbourhood.delta"] = getattr(objective.neighbourhood, "delta", None)
    found |= {f"teacher.{n}": value for n, value in objective.teacher.items()}
    found |= {f"psi.{n}": value for n, value in objective.psi.items()}
    found |= {f"start.{n}": value for n, value in start.items()}
    return {n: v for n, v in found.items() if isinstance(v, Tensor) and v.requires_grad}


def with_inputs(objective: Objective, inputs: Params) -> Objective:
    """The objective with other values for these inputs; those of the start are no part of it."""

    def under(prefix: str) -> dict[str, Any]:
        return {n.removeprefix(prefix): v for n, v in inputs.items() if n.startswith(prefix)}

    def changed(part: Any, prefix: str) -> Any:
        return replace(part, **under(prefix)) if under(prefix) else part

    return replace(
        objective,
        lambdas=changed(objective.lambdas, "lambdas."),
        teacher=objective.teacher | under("teacher."),
        psi=objective.psi | under("psi."),
        neighbourhood=changed(objective.neighbourhood, "neighbourhood."),
    )


def without_grad(objective: Objective, start: Params) -> tuple[Objective, Params]:
    """Both, for a solver: it must not record what it does."""
    inputs = differentiable_inputs(objective, start)
    return with_inputs(objective, detached(inputs)), detached(start)


def detached(values: Params) -> Params:
    """The same numbers, off the graph."""
    return {name: value.detach() for name, value in values.items()}


@torch.enable_grad()
def guarded(inputs: Params) -> Params:
    """The same tensors, whose derivatives are refused where they are not finite."""
    return {name: _Guarded.apply(name, value) for name, value in inputs.items()}


def check_smooth(objective: Objective) -> None:
    """Refuse estimators whose gradient is right but not what follows from it."""
    if isinstance(objective.curvature, Spectral) and "curvature" in objective.lambdas.active:
        raise ValueError(
            "adjoint: curvature=Spectral holds its eigenvector fixed, so that derivatives beyond "
            "the gradient are wrong; use Frobenius"
        )


def attach(params: Params, inputs: Params, pull_back: PullBack) -> Params:
    """``params`` with the derivative in ``inputs`` that ``pull_back`` gives."""
    if not inputs:
        return params

    def flat(saved: tuple[Tensor, ...], cotangents: tuple[Tensor, ...]) -> list[Tensor]:
        given = dict(zip(inputs, saved, strict=True))
        with torch.autocast(cotangents[0].device.type, enabled=False):  # as in the solve
            found = pull_back(given, dict(zip(params, cotangents, strict=True)))
        return [_finite(name, found[name]) for name in inputs]

    values = _Attached.apply(flat, len(inputs), *inputs.values(), *params.values())
    return dict(zip(params, values, strict=True))


def vector_jacobian(function: Callable[..., Any], at: tuple[Any, ...], cotangents: Any) -> Any:
    """(∂function/∂at)ᵀ c, all nested dicts and lists of tensors."""
    if in_transform():
        return cast(Any, vjp(function, *at))[1](cotangents)
    # Plainly recorded, the same costs a small model a third less.
    values, tree = pytree.tree_flatten(cast(Any, at))
    leaves = [value.detach().requires_grad_() for value in values]
    with torch.enable_grad():
        outputs = pytree.tree_leaves(function(*pytree.tree_unflatten(tree, leaves)))
    pairs = zip(outputs, pytree.tree_leaves(cotangents), strict=True)
    ends, given = zip(*((o, c) for o, c in pairs if o.requires_grad), strict=True)
    found = torch.autograd.grad(ends, leaves, given, materialize_grads=True)
    return pytree.tree_unflatten(tree, found)


class _Attached(torch.autograd.Function):
    """The identity on the parameters, whose derivative in the inputs is given."""

    @staticmethod
    def forward(flat: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.clone() for value in tensors[count:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.flat, count, *tensors = inputs
        ctx.save_for_backward(*tensors[:count])
        ctx.rest = len(tensors) - count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.flat(ctx.saved_tensors, cotangents), *[None] * ctx.rest


class _Guarded(torch.autograd.Function):
    """The identity, with a derivative that is looked at."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[None, Tensor]:
        return None, _finite(ctx.name, cotangent)


def _finite(name: str, value: Tensor) -> Tensor:
    if not torch._C._functorch.is_batchedtensor(value) and not value.isfinite().all():
        raise AdjointError(
            f"the derivative in {name} is not finite. Adam, RMSProp and Adagrad have none at a "
            "gradient of zero: give them eps_root=1e-8. Otherwise the solve itself is unstable: "
            "lower its learning rate"
        )
    return value
