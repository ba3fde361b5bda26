"""What all adjoints share: the inputs of a derivative, and solutions that have one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor
from torchopt import pytree

from phiopt._transforms import batched, differentiated, has_tangent, plain, wrapped
from phiopt._types import Params
from phiopt._vector import under
from phiopt.objective import Lambdas, Objective, Term, delta_of
from phiopt.solve import Outcome, Solver
from phiopt.solve.solver import takes_steps

Part = TypeVar("Part")

PullBack: TypeAlias = Callable[[Params, Params], Params]
"""``(inputs, cotangent of w1) -> cotangent of the inputs``."""


class AdjointError(RuntimeError):
    """The solution has no derivative that can be trusted; the message says why and what to do."""


@runtime_checkable
class Adjoint(Protocol):
    """A way to differentiate w1 = φ(u) in λ, δ, u, ψ and the start w0. An adjoint that goes back by the solver's
    steps declares it: see `NeedsSteps`.
    """

    def solve(
        self, solver: Solver, objective: Objective, start: Params, *, seed: int, progress: bool
    ) -> Outcome:
        """The solver's outcome, whose ``params`` are differentiable in those tensors of
        ``objective`` and ``start`` that require grad.
        """
        ...


@runtime_checkable
class NeedsSteps(Protocol):
    """An adjoint that may need a `StepSolver`, to go back by the solver's steps."""

    @property
    def needs_steps(self) -> bool: ...


def needs_steps(adjoint: object) -> bool:
    """Whether the adjoint goes back by the solver's steps."""
    return isinstance(adjoint, NeedsSteps) and adjoint.needs_steps


def check_steps(solver: Solver, adjoint: Adjoint | None) -> None:
    """Refuse a solver without steps of an optimiser if the search's adjoint goes back by such steps."""
    if needs_steps(adjoint) and not takes_steps(solver):
        raise TypeError(
            f"solver: {type(solver).__name__} takes no steps of an optimiser, but {type(adjoint).__name__} goes "
            "back by such steps; give search=Mirror(adjoint=Implicit()), or Optuna()"
        )


def differentiable_inputs(objective: Objective, start: Params) -> Params:
    """The tensors that require grad or have a tangent, by name: ``lambdas.task``, ``neighbourhood.delta``,
    ``teacher.NAME``, ``psi.NAME``, ``start.NAME`` and the names of extra terms' tensors.
    """
    tensors = objective.tensors() | {f"start.{n}": value for n, value in start.items()}
    return {name: value for name, value in tensors.items() if differentiated(value)}


def given_tensors(
    lambdas: Lambdas, neighbourhood: Any, start: Any, extra: Sequence[tuple[Any, Term]] = ()
) -> Params:
    """The tensors among λ, δ, the start, the weights of extra terms and what these terms hold, by the names of
    `differentiable_inputs`.
    """
    values: dict[str, Any] = {f"lambdas.{n}": value for n, value in lambdas.items()}
    values["neighbourhood.delta"] = delta_of(neighbourhood)
    if isinstance(start, dict):
        values |= {f"start.{n}": value for n, value in start.items()}
    for weight, term in extra:
        values |= {f"extra.{term.name}": weight, **term.tensors()}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def check_derivative(given: Params, adjoint: Adjoint | None) -> None:
    """Refuse, without an adjoint, tensors that `torch.func` or forward mode is differentiating in. Both would give a
    derivative of 0, because the result does not depend on the tensors. Reverse mode of `torch.autograd` raises an
    error by itself.
    """
    for name, value in given.items() if adjoint is None else ():
        if has_tangent(value) or (wrapped(value) and value.requires_grad):
            raise ValueError(
                f"adjoint: None, but {name} is being differentiated in; give Replay(), Unroll() or "
                "Implicit()"
            )


def changed(part: Part, prefix: str, inputs: Params) -> Part:
    """The same dictionary or dataclass, with the ``inputs`` under this prefix in place of the old values."""
    own: Any = under(prefix, inputs)
    if not own:
        return part
    whole: Any = part
    return cast(Part, whole | own if isinstance(whole, dict) else replace(whole, **own))


def without_grad(objective: Objective, start: Params) -> tuple[Objective, Params]:
    """Objective and start with plain tensors, for a solve that autograd must not record."""
    inputs = differentiable_inputs(objective, start)
    return objective.with_tensors(_plain(inputs)), _plain(start)


def _plain(values: Params) -> Params:
    return {name: plain(name, value) for name, value in values.items()}


def detached(values: Params) -> Params:
    """The same numbers, without the graph."""
    return {name: value.detach() for name, value in values.items()}


@torch.enable_grad()
def guarded(inputs: Params) -> Params:
    """The same tensors. A derivative in them that is not finite raises an error."""
    return {name: _Guarded.apply(name, value) for name, value in inputs.items()}


def check_smooth(objective: Objective) -> None:
    """Refuse terms whose gradient is right but whose gradient's derivative is wrong."""
    for term in objective.terms:
        if term.first_order_only and term.name in objective.active:
            raise ValueError(f"adjoint: {term.first_order_only}")


def attach(params: Params, inputs: Params, pull_back: PullBack) -> Params:
    """``params`` with the derivative in ``inputs`` that ``pull_back`` gives."""
    if not inputs:
        return params

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        values = [value.detach() for value in tensors]
        given = dict(zip(inputs, values, strict=False))
        cotangents = dict(zip(params, values[len(inputs) :], strict=True))
        with torch.autocast(values[0].device.type, enabled=False):  # as in the solve
            pulled = pull_back(given, cotangents)
        return tuple(_finite(name, pulled[name]) for name in inputs)

    values = _Attached.apply(flat, len(inputs), *inputs.values(), *params.values())
    return dict(zip(params, values, strict=True))


def vector_jacobian(function: Callable[..., Any], at: tuple[Any, ...], cotangents: Any) -> Any:
    """(∂function/∂at)ᵀ c, where all three are nested dicts and lists of tensors."""
    # torch.func.vjp takes one and a half times as long for a small model.
    values, tree = pytree.tree_flatten(cast(Any, at))
    leaves = [value.detach().requires_grad_() for value in values]
    with torch.enable_grad():
        outputs = pytree.tree_leaves(function(*pytree.tree_unflatten(tree, leaves)))
    pairs = zip(outputs, pytree.tree_leaves(cotangents), strict=True)
    ends, given = zip(*((o, c) for o, c in pairs if o.requires_grad), strict=True)
    products = torch.autograd.grad(ends, leaves, given, materialize_grads=True)
    return pytree.tree_unflatten(tree, products)


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
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        pulled = _PulledBack.apply(ctx.flat, *ctx.saved_tensors, *cotangents)
        return None, None, *pulled, *[None] * ctx.rest

    @staticmethod
    def vmap(info: Any, dims: Any, *given: Any) -> Any:
        """Forward mode with several tangents at once calls this first."""
        return _Attached.jvp(None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        raise AdjointError(
            "forward mode (torch.func.jvp, jacfwd, torch.autograd.forward_ad) has no rule for "
            "Replay and Implicit; use reverse mode, or Unroll()"
        )


class _PulledBack(torch.autograd.Function):
    """The cotangents of the inputs, computed outside of any transform. A second derivative is refused:
    autograd would take the cotangents for constants.
    """

    @staticmethod
    def forward(flat: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return cast(tuple[Tensor, ...], flat(*tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        raise AdjointError(
            "Replay and Implicit give a first derivative alone, and this asks for a second: use "
            "Unroll(), or detach the first"
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        return _PulledBack.backward(ctx)

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], flat: Any, *tensors: Tensor) -> Any:
        """Several cotangents are pulled back one after the other. Solves and their samples cannot be batched."""
        rows = [
            [t if d is None else t.select(d, i) for t, d in zip(tensors, dims[1:], strict=True)]
            for i in range(info.batch_size)
        ]
        results = [_PulledBack.apply(flat, *row) for row in rows]
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])


class _Guarded(torch.autograd.Function):
    """The identity, whose derivative is checked to be finite."""

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

    @staticmethod
    def jvp(ctx: Any, _: None, tangent: Tensor) -> Tensor:
        return tangent.view_as(tangent)


def _finite(name: str, value: Tensor) -> Tensor:
    if not batched(value) and not value.isfinite().all():
        raise AdjointError(
            f"the derivative in {name} is not finite. Adam, RMSProp and Adagrad have none at a "
            "gradient of zero: give them eps_root=1e-8. Otherwise the solve itself is unstable: "
            "lower its learning rate"
        )
    return value
