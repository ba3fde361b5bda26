"""The path of a solve: a record from which each step can be taken again and differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from types import FunctionType
from typing import Any, TypeAlias, cast

import torch
import torchopt
from torch import Tensor
from torchopt import pytree
from torchopt.base import GradientTransformation

from phiopt._described import content
from phiopt._types import Params
from phiopt.bilevel.adjoint import AdjointError, detached, without_grad
from phiopt.derivatives import square_norm
from phiopt.objective import Objective, Sample, Stream
from phiopt.optimizers import default_optimizer
from phiopt.solve import Outcome, Solver
from phiopt.solve.solver import takes_steps

EPS_ROOT = 1e-8
"""``eps_root`` of the default Adam. It gives Adam a derivative at a gradient of zero, which every dead unit has.
Steps are shorter where a gradient, divided by the root mean square where it is normalised, is below 1e-4. With a much
smaller value derivatives overflow in float32."""


Draw: TypeAlias = tuple[int | None, int, Stream, int]
"""Size, seed, stream and step: with the parameters' shapes they determine a sample."""


class _Drawn(Sample):
    """A sample with a note of how it was drawn. Samples derived from it have no such note."""

    draw: Draw | None = None


@dataclass(frozen=True)
class Step:
    """Parameters, optimiser state and sample of one update, before the update.

    ``source`` is the sample, or the `Draw` by which the objective can make it again. The parameters are empty
    where they are not kept.
    """

    params: Params
    state: Any
    source: Sample | Draw


@dataclass
class Path:
    """The steps of a solve. They are recorded where the solver calls the objective for gradients and the optimiser for
    updates.

    ``steps`` has the parameters and the optimiser's state before each step, or before one step in ``every``. Batches
    that can be drawn again are not kept. With ``graph`` autograd records the steps, while the solver itself gets
    plain tensors.
    """

    objective: Objective
    optimizer: Any
    start: Params
    graph: bool = False
    every: int = 1
    steps: list[Step] = field(default_factory=list)
    marks: list[list[float]] = field(default_factory=list)
    last: Params = field(default_factory=dict)
    asked: dict[int, tuple[Params, Params, Sample]] = field(default_factory=dict)
    drawn: tuple[Draw, Sample] | None = None

    @classmethod
    def of(
        cls,
        solver: Solver,
        objective: Objective,
        start: Params,
        *,
        seed: int,
        progress: bool,
        graph: bool = False,
        every: int = 1,
    ) -> tuple[Outcome, Path]:
        """Solve, and cut the path at the iterate that the solver returned."""
        if not takes_steps(solver):
            raise TypeError(
                f"adjoint: {type(solver).__name__} has no optimizer whose steps could be taken again, or is no "
                "dataclass, so that no other optimizer can be put into it; use Implicit, or the solver TorchOpt"
            )
        optimizer = solver.optimizer or default_optimizer(
            solver.steps, every=objective.interval, eps_root=EPS_ROOT
        )
        if _clips(optimizer.update):
            raise AdjointError(
                "torchopt.clip.clip_grad_norm takes its factor for a constant, so that derivatives "
                "through its steps are wrong; use phiopt.optimizers.clipped(optimizer, max_norm)"
            )
        path = cls(objective, optimizer, start, graph, every)
        functions: Any = (path.init, path.update)
        watched: Any = replace(cast(Any, solver), optimizer=GradientTransformation(*functions))
        plain, origin = without_grad(objective, start)
        outcome = watched.solve(_Watched.of(plain, path), origin, seed=seed, progress=progress)
        path.cut(outcome.params)
        return outcome, path

    def init(self, params: Params) -> Any:
        if self.last:
            raise AdjointError(
                "the solve met a value that was not finite and was rolled back, so its path is no "
                "smooth function of λ. Lower the learning rate, or clip the gradient (phiopt.optimizers.clipped)"
            )
        self.last = self.start
        return self.optimizer.init(params)

    def update(
        self, gradient: Params, state: Any, *, params: Params | None = None, inplace: bool = True
    ) -> tuple[Params, Any]:
        _, recorded, sample = self.asked.get(id(gradient), (None, None, None))
        if recorded is None or sample is None or params is None:
            raise AdjointError(
                "the solver's update is not by one gradient of the objective, at its last iterate"
            )
        self.asked.clear()
        repeatable = self.objective.data is None or self.objective.data.repeatable
        draw = sample.draw if repeatable and isinstance(sample, _Drawn) else None
        keep = len(self.steps) % self.every == 0
        params, kept_state = (self.last, state) if keep else ({}, None)
        self.steps.append(Step(params, kept_state, draw or Sample(*sample)))
        if self.every > 1:
            self.marks.append(_mark(self.last))
        with torch.set_grad_enabled(self.graph):
            updates, state = self.optimizer.update(recorded, state, params=self.last, inplace=False)
            self.last = torchopt.apply_updates(self.last, updates, inplace=False)
        return detached(updates), state

    def cut(self, best: Params) -> None:
        """Drop the steps after ``best`` was reached."""
        if self.every > 1:  # most iterates were not kept
            marks, wanted = [*self.marks, _mark(self.last)], _mark(best)
            matches = [k for k, mark in enumerate(marks) if mark == wanted]
        else:
            iterates = [*(step.params for step in self.steps), self.last]
            matches = [k for k, iterate in enumerate(iterates) if _same(iterate, best)]
        if not matches:
            raise AdjointError("the solver returned parameters that its updates did not make")
        self.asked.clear()
        if matches[-1] < len(self.steps):
            self.last = self.steps[matches[-1]].params or best
        del self.steps[matches[-1] :]

    @contextmanager
    def segment(self, first: int) -> Iterator[range]:
        """The steps from a kept iterate to the next. Inside this context all of them have their iterates, which are
        computed again.
        """
        indices = range(first, min(first + self.every, len(self.steps)))
        sparse = [self.steps[index] for index in indices]
        params, state = sparse[0].params, sparse[0].state
        for index in indices[1:]:
            sample = self.sample(self.steps[index - 1])
            params, state = self.advance(self.objective, sample, params, state)
            self.steps[index] = replace(self.steps[index], params=params, state=state)
        try:
            yield indices
        finally:
            self.steps[first : indices.stop] = sparse

    def sample(self, step: Step) -> Sample:
        """The sample of a step, drawn again where it was not kept."""
        if isinstance(step.source, Sample):
            return step.source
        if self.drawn is None or self.drawn[0] != step.source:  # a frozen sample is drawn once
            self.drawn = step.source, self.objective.sample(self.start, *step.source)
        return self.drawn[1]

    def advance(
        self, objective: Objective, sample: Sample, params: Params, state: Any
    ) -> tuple[Params, Any]:
        """w_{t+1} = T(w_t), and the optimiser's next state."""
        return self.move(objective.value_and_grad(params, sample)[2], params, state)

    def move(self, gradient: Params, params: Params, state: Any) -> tuple[Params, Any]:
        """The optimiser's part of a step."""
        updates, state = self.optimizer.update(gradient, state, params=params, inplace=False)
        return torchopt.apply_updates(params, updates, inplace=False), state

    def check(self, index: int, params: Params) -> None:
        """Refuse ``params``, the result of step ``index`` taken again, if the solve went elsewhere."""
        reached = self.steps[index + 1].params if index + 1 < len(self.steps) else self.last
        begun = self.steps[index].params
        gap = square_norm({n: params[n].detach() - w for n, w in reached.items()})
        length = square_norm({n: begun[n] - w for n, w in reached.items()})
        if not gap <= 1e-4 * length + 1e-12 * square_norm(reached):  # NaN, too
            raise AdjointError(
                f"step {index} of the solve, taken again, ends elsewhere: the optimiser keeps a "
                "state of its own, the loss is random or met a fault, or the data have been changed in place. Use "
                "a pure optimiser and a pure loss, or give the solve a copy of the data"
            )


@dataclass(frozen=True, eq=False)
class _Watched(Objective):
    """An objective that records its samples and gradients in a path."""

    path: Path | None = None

    @classmethod
    def of(cls, objective: Objective, path: Path) -> _Watched:
        values = {f.name: getattr(objective, f.name) for f in fields(objective)}
        return cls(**values, path=path)

    def sample(
        self,
        params: Params,
        size: int | None,
        seed: int,
        stream: Stream,
        step: int,
        *,
        weighted: bool = False,
    ) -> Sample:
        drawn = _Drawn(*super().sample(params, size, seed, stream, step, weighted=weighted))
        drawn.draw = (size, seed, stream, step)
        return drawn

    def value_and_grad(
        self, params: Params, sample: Sample
    ) -> tuple[Tensor, dict[str, Tensor], Params]:
        path = self.path
        if path is None or not _same(path.last, params):
            return super().value_and_grad(params, sample)
        with torch.set_grad_enabled(path.graph):
            value, terms, recorded = path.objective.value_and_grad(path.last, sample)
        gradient = detached(recorded)
        path.asked[id(gradient)] = (gradient, recorded, sample)
        return value.detach(), detached(terms), gradient


def _clips(part: Any, seen: frozenset[int] = frozenset()) -> bool:
    """Whether TorchOpt's clipping is among the functions that an optimiser is made of."""
    if isinstance(part, tuple | list):  # a GradientTransformation is a tuple
        return any(_clips(inner, seen) for inner in part)
    if not isinstance(part, FunctionType) or id(part) in seen:
        return False
    if part.__module__ == "torchopt.clip":
        return True
    enclosed = [content(cell) for cell in part.__closure__ or ()]
    return _clips(enclosed, seen | {id(part)})


def _mark(params: Params) -> list[float]:
    """Numbers by which iterates that are not kept can be compared."""
    wide = torch.float64
    sums = [(p.sum(dtype=wide), torch.linalg.vector_norm(p, dtype=wide)) for p in params.values()]
    return torch.stack([number for pair in sums for number in pair]).tolist()


def _same(a: Params, b: Params) -> bool:
    return all(torch.equal(a[name], value) for name, value in b.items())


def float_leaves(state: Any) -> tuple[list[Tensor], Callable[[list[Tensor]], Any]]:
    """The floating tensors of an optimiser's state, and a function that puts others in their places."""
    leaves, tree = pytree.tree_flatten(state)
    places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.is_floating_point()]

    def rebuilt(values: list[Tensor]) -> Any:
        changed = list(leaves)
        for place, value in zip(places, values, strict=True):
            changed[place] = value
        return pytree.tree_unflatten(tree, changed)

    return [leaves[i] for i in places], rebuilt
