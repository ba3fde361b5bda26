"""Many solves on stacked parameters, by `torch.vmap`: every point λ with every problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeAlias, cast

import torch
import torchopt
from torch import Tensor
from torch.func import vmap
from torchopt import pytree

from phiopt._inputs import Several, flatten, unflatten
from phiopt._types import Params
from phiopt._vector import under
from phiopt.derivatives import square_norm
from phiopt.objective import Lambdas, Objective, Sample, Stream, joined
from phiopt.solve.counted import Counted
from phiopt.solve.outcome import Stats
from phiopt.solve.solves import COMPARED_ON, VALIDATION_SAMPLES, Gradients, OneSolve, Validated

Axes: TypeAlias = tuple[int | None, ...]

TREES = "phiopt"
"""Namespace of trees with `Several` in them."""
cast(Any, pytree).register_pytree_node(
    Several, flatten, lambda context, tensors: unflatten(tensors, context), namespace=TREES
)

LAMBDAS = tuple(field.name for field in fields(Lambdas))
"""Names of the paper's terms, in the order of the columns of λ."""


class StackableProblem(Protocol):
    """A problem among many that have the same student, loss, neighbourhood and curvature."""

    @property
    def objective(self) -> Objective:
        """L. Its weights are not used."""
        ...

    @property
    def start(self) -> Params:
        """w0."""
        ...

    @property
    def seed(self) -> int:
        """Seed of every draw."""
        ...

    @property
    def constants(self) -> Params:
        """What the student holds beside w, by name: buffers, and parameters that are not solved for."""
        ...


class StackedSolves:
    """Every problem at every point. See `Solves`.

    Tensors of the solves have a leading axis, all points of the first problem first. An operation
    that PyTorch cannot batch makes ``update`` raise a `TypeError`.
    """

    def __init__(
        self,
        problems: Sequence[StackableProblem],
        lambdas: Tensor,
        optimizer: Any,
        *,
        batch_size: int | None,
    ) -> None:
        self.problems, self.optimizer, self.batch_size = problems, optimizer, batch_size
        like = next(iter(problems[0].start.values()))
        self.lambdas = lambdas.to(like)
        self.names = problems[0].objective.names
        weighed = [name for k, name in enumerate(LAMBDAS) if bool((lambdas[:, k] != 0).any())]
        extra = problems[0].objective.extra
        self.active = [name for name in self.names if name in weighed or extra.get(name)]
        self.shared = _stacked([_constants(problem) for problem in problems])
        start = _stacked([problem.start for problem in problems])
        self.start = {n: v.repeat_interleave(len(lambdas), 0) for n, v in start.items()}
        mean = Lambdas.of(lambdas.double().mean(0).tolist())  # not 0 if a weight is not 0
        self.weighed = [(replace(p.objective, lambdas=mean), p) for p in problems]
        self.work = Stats(0, 0, 0, 0, 0, 0.0)
        self.solved: dict[int, OneSolve] = {}
        self.validation = [self._draw(Stream.HELD_OUT, i) for i in range(VALIDATION_SAMPLES)]

    def __len__(self) -> int:
        return len(self.problems) * len(self.lambdas)

    def draw(self, step: int) -> Draw:
        return self._draw(Stream.STEP, step)

    def gradients(self, params: Params, draw: Draw) -> Gradients:
        def at(w: Params, point: Tensor, shared: Params, tensors: list[Tensor]) -> Any:
            objective = replace(self._objective(shared), lambdas=self._weights(point))
            return self._counted(objective, "value_and_grad", w, draw.made(tensors))

        parts = self._by_problem(params), self.lambdas, self.shared, draw.tensors
        grouped = self._each(at, (0, 0, None, None), (0, None, 0, 0), parts)
        value, terms, gradient = _mapped(lambda v: v.flatten(0, 1), grouped)
        return Gradients(value, terms, gradient, vmap(square_norm)(gradient).sqrt())

    def validate(self, params: Params, number: int | None = COMPARED_ON) -> Validated:
        terms = self._mean_terms(params, self.active, self.validation[:number])
        weights = dict(zip(LAMBDAS, self.lambdas.unbind(1), strict=True))
        for name, weight in self.problems[0].objective.extra.items():
            weights[name] = torch.full_like(self.lambdas[:, 0], float(weight))
        divisors = under("divisors.", self.shared)
        grouped = self._by_problem(terms)
        parts = [weights[n] / divisors[n][:, None] * grouped[n] for n in self.active]
        return Validated(torch.stack(parts).sum(0).flatten().tolist(), terms)

    def init(self, params: Params) -> Any:
        return vmap(self.optimizer.init)(params)

    def update(
        self, gradient: Params, state: Any, params: Params, lengths: Sequence[float]
    ) -> tuple[Params, Any]:
        def update(g: Params, state: Any, w: Params) -> tuple[Params, Any]:
            return self.optimizer.update(g, state, params=w, inplace=False)

        try:
            updates, state = vmap(update)(gradient, state, params)
        except RuntimeError as error:
            raise TypeError(
                f"solver: its optimizer cannot be batched ({str(error).splitlines()[0]}); take one "
                "without control flow that depends on values, or solve one problem at a time"
            ) from error
        scale = self.lambdas.new_tensor(lengths)
        updates = {name: u * _wide(scale.to(u), u) for name, u in updates.items()}
        return torchopt.apply_updates(params, updates, inplace=False), state

    def choose(self, which: Sequence[bool], ours: Any, theirs: Any) -> Any:
        if all(which):
            return ours
        mask = torch.tensor(which, device=self.lambdas.device)
        return _mapped(lambda a, b: torch.where(_wide(mask, a), a, b), ours, theirs)

    def only(self, index: int, params: Params) -> Params:
        return {name: value[index] for name, value in params.items()}

    def solve(self, index: int) -> OneSolve:
        if index not in self.solved:
            number, point = divmod(index, len(self.lambdas))
            problem = self.problems[number]
            self.solved[index] = OneSolve(
                replace(problem.objective, lambdas=Lambdas.of(self.lambdas[point].tolist())),
                problem.start,
                problem.seed,
                self.optimizer,
                batch_size=self.batch_size,
                validation=[draw.of_problem(number) for draw in self.validation],
            )
        return self.solved[index]

    def weighted(self, index: int) -> Sequence[str]:
        point = dict(zip(LAMBDAS, self.lambdas[index % len(self.lambdas)].tolist(), strict=True))
        return [name for name in self.active if point.get(name, 1.0)]

    def stats(self, index: int) -> Stats:
        single = self.solved.get(index)
        return self.work if single is None else self.work + single.stats(0)

    def _mean_terms(
        self, params: Params, names: Sequence[str], draws: Sequence[Draw]
    ) -> dict[str, Tensor]:
        """The raw terms, the mean over these samples."""
        records = []
        for draw in draws:

            def at(
                w: Params, shared: Params, tensors: list[Tensor], draw: Draw = draw
            ) -> dict[str, Tensor]:
                sample = draw.made(tensors)
                return self._counted(self._objective(shared), "mean_terms", w, [sample], names)

            parts = self._by_problem(params), self.shared, draw.tensors
            grouped = self._each(at, (0, None, None), (0, 0, 0), parts)
            records.append({name: value.flatten(0, 1) for name, value in grouped.items()})
        return {name: torch.stack([r[name] for r in records]).mean(0) for name in records[0]}

    def _each(
        self, function: Callable[..., Any], points: Axes, problems: Axes, arguments: Sequence[Any]
    ) -> Any:
        """The function of every solve, with leading axes of problems and of points. ``points`` and ``problems`` say
        which arguments have these axes. One problem alone is not batched: its data keep plain values, which a forward
        pass may look at.
        """
        at_points = vmap(function, points)
        if len(self.problems) > 1:
            return vmap(at_points, problems)(*arguments)
        alone = zip(arguments, problems, strict=True)
        own = [v if axis is None else _mapped(lambda t: t[0], v) for v, axis in alone]
        return _mapped(lambda t: t[None], at_points(*own))

    def _objective(self, shared: Params) -> Objective:
        """L of a problem under ``vmap``. Its weights are not set."""
        plain, constants = self.problems[0].objective, under("constants.", shared)
        return replace(
            plain,
            model=lambda w, inputs: plain.model(constants | w, inputs),
            divisors=cast(Any, under("divisors.", shared)),
        ).with_tensors(under("tensors.", shared))

    def _weights(self, point: Tensor) -> Lambdas:
        named = dict(zip(LAMBDAS, point.unbind(), strict=True))
        return Lambdas(**{n: w if n in self.active else 0.0 for n, w in named.items()})

    def _counted(self, objective: Objective, method: str, *arguments: Any) -> Any:
        """The result of a method. Under ``vmap`` it is counted once for each solve."""
        counted = Counted(objective)
        result = getattr(counted, method)(*arguments)
        self.work = self.work + counted.stats(0, 0, 0.0)
        return result

    def _draw(self, stream: Stream, step: int) -> Draw:
        size = self.batch_size
        return Draw.of([o.sample(p.start, size, p.seed, stream, step) for o, p in self.weighed])

    def _by_problem(self, params: Params) -> Params:
        return {n: v.unflatten(0, (len(self.problems), -1)) for n, v in params.items()}


@dataclass(frozen=True)
class Draw:
    """One draw of every problem: the stacked tensors, and a function that makes a sample of tensors."""

    tensors: list[Tensor]
    made: Callable[[list[Tensor]], Sample]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Draw:
        trees = [[half[:3] for half in sample.halves] for sample in samples]
        flat = [pytree.tree_flatten(cast(Any, tree), namespace=TREES) for tree in trees]
        step = samples[0].step

        def made(tensors: list[Tensor]) -> Sample:
            halves = cast(Any, pytree.tree_unflatten(flat[0][1], tensors))
            return joined([Sample(x, y, numbers, step) for x, y, numbers in halves])

        return cls(_stacked([leaves for leaves, _ in flat]), made)

    def of_problem(self, number: int) -> Sample:
        return self.made([value[number] for value in self.tensors])


def _stacked(trees: Sequence[Any]) -> Any:
    try:
        return _mapped(lambda *values: torch.stack(values), *trees)
    except RuntimeError as error:
        raise ValueError(
            f"problems: not alike ({error}); all must have batches and parameters of the same sizes"
        ) from error


def _constants(problem: StackableProblem) -> Params:
    """The problem's own tensors and numbers in one dictionary."""
    like = next(iter(problem.start.values()))
    objective = problem.objective
    divisors = {name: objective.divisors.get(name, 1.0) for name in objective.names}
    parts: dict[str, Mapping[str, Any]] = {
        "tensors": {
            name: value for term in objective.terms for name, value in term.tensors().items()
        },
        "constants": problem.constants,
        "divisors": {
            name: torch.as_tensor(value, dtype=like.dtype, device=like.device)
            for name, value in divisors.items()
        },
    }
    return {f"{part}.{name}": v for part, values in parts.items() for name, v in values.items()}


def _mapped(function: Callable[..., Tensor], *trees: Any) -> Any:
    return pytree.tree_map(function, *trees)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))
