"""Many solves at once: points λ and problems on stacked parameters, by `torch.vmap`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, cast

import torch
import torchopt
from torch import Tensor
from torch.func import vmap
from torchopt import pytree

from phiopt._types import Params
from phiopt.derivatives import square_norm
from phiopt.objective import Lambdas, Objective, Sample, Stream
from phiopt.solve.alike import check_alike
from phiopt.solve.certificate import moments
from phiopt.solve.solution import Outcome, Stats, Status, vouched
from phiopt.solve.solver import RETRIES, Counted
from phiopt.solve.torchopt_loop import JUDGES, TorchOpt, default_optimizer

TERMS = ("task", "proximity", "noise", "curvature")


@dataclass(frozen=True)
class Posed:
    """One problem of many that are alike: the same student, loss, neighbourhood and curvature.

    Args:
        objective: L; its weights are not used.
        start: w0.
        seed: Of every draw.
        constants: What the student holds beside w, by name: buffers, and parameters that are not
            solved for.
    """

    objective: Objective
    start: Params
    seed: int = 0
    constants: Params = field(default_factory=dict)


def solve_many(solver: TorchOpt, problems: Sequence[Posed], lambdas: Tensor) -> list[list[Outcome]]:
    """φ at every point of ``lambdas`` for every problem, all at once.

    Each outcome is, to rounding, that of ``solver.solve`` on the problem with those weights: the
    draws of a problem are the same at every point, each point has an optimiser of its own, and what
    goes wrong at one (NaN, a roll-back) concerns that one alone. Points whose λ4 is 0 are solved
    apart, without the curvature; any other term is computed if one of the points weighs it, and has
    to be finite at all of them. Memory is that of one gradient times the number of problems and
    points. An exception while data are read goes through.

    Args:
        solver: With fresh draws and no ``tol``.
        problems: From ``S`` seeds or teachers.
        lambdas: Points of the simplex, ``(N, 4)``.

    Returns:
        ``S`` lists of ``N`` outcomes. Their ``seconds`` are equal shares of the time that all took.

    Raises:
        ValueError: ``solver`` has a ``tol`` or frozen draws, ``problems`` is empty, has batches of
            different sizes, or differs in what is not stacked (δ, the loss, classes), ``lambdas``
            is not ``(N, 4)`` or has a point off the simplex.
        TypeError: ``solver`` is no `TorchOpt`, its optimiser cannot be batched, or ``lambdas`` is no
            tensor.
    """
    _check(solver, problems, lambdas)
    check_alike(problems)
    found: list[dict[int, Outcome]] = [{} for _ in problems]
    curved = lambdas[:, 3] != 0
    for group in (curved, ~curved):
        places = group.nonzero().flatten().tolist()
        if places:
            for mine, outcomes in zip(
                found, _solved(solver, problems, lambdas[group]), strict=True
            ):
                mine.update(zip(places, outcomes, strict=True))
    return [[mine[place] for place in range(len(lambdas))] for mine in found]


def _check(solver: TorchOpt, problems: Sequence[Posed], lambdas: Tensor) -> None:
    if not isinstance(solver, TorchOpt):
        raise TypeError(f"solver: got {type(solver).__name__}, must be a TorchOpt to be batched")
    if solver.tol is not None or not solver.fresh:
        raise ValueError(f"solver: got {solver}, must have fresh draws and no tol to be batched")
    if not problems:
        raise ValueError("problems: got none, at least one is needed")
    if not isinstance(lambdas, Tensor):
        raise TypeError(f"lambdas: got {type(lambdas).__name__}, must be a tensor (N, 4)")
    if lambdas.dim() != 2 or lambdas.shape[1] != 4 or len(lambdas) == 0:
        raise ValueError(f"lambdas: got shape {tuple(lambdas.shape)}, must be (N, 4)")
    for point in lambdas.tolist():
        Lambdas.of(point)


@torch.no_grad()
def _solved(solver: TorchOpt, problems: Sequence[Posed], lambdas: Tensor) -> list[list[Outcome]]:
    began = perf_counter()
    with _fallbacks_unmentioned():
        run = _Run(solver, problems, lambdas)
        run.through()
        outcomes = run.outcomes(began)
    n = len(lambdas)
    return [outcomes[first : first + n] for first in range(0, len(outcomes), n)]


class _Run:
    """A batch of solves in progress; their steps are those of `torchopt_loop`.

    Whatever each solve has one of has a leading axis, all points of the first problem first.
    """

    def __init__(self, solver: TorchOpt, problems: Sequence[Posed], lambdas: Tensor) -> None:
        self.solver, self.problems = solver, problems
        like = next(iter(problems[0].start.values()))
        self.lambdas = lambdas.to(like)
        self.active = [name for k, name in enumerate(TERMS) if bool((lambdas[:, k] != 0).any())]
        self.optimizer = solver.optimizer or default_optimizer(
            solver.steps, every=problems[0].objective.every
        )
        self.shared = _stacked([_named(problem) for problem in problems])
        self.work = Stats(0, 0, 0, 0, 0, 0.0)
        start = _stacked([problem.start for problem in problems])
        self.best = self.params = self.each_point(start)
        self.state = vmap(self.optimizer.init)(self.params)
        count = len(problems) * len(lambdas)
        self.running = torch.ones(count, dtype=torch.bool, device=like.device)
        self.rollbacks = torch.zeros(count, dtype=torch.int64, device=like.device)
        self.ends: dict[int, tuple[Status, Stats]] = {}
        self.history: list[dict[str, Tensor]] = []
        self.judges = [self.sampled(Stream.HELD_OUT, i) for i in range(JUDGES)]
        self.start_terms = self.each_point(self.mean_terms(start, TERMS))
        self.start_value = self.weigh(self.start_terms)
        self.best_value = self.last_value = self.start_value
        self.finite = self.start_value.isfinite()

    def through(self) -> None:
        self.stop(~self.finite, Status.NON_FINITE)
        for step in range(self.solver.steps):
            if not bool(self.running.any()):
                return
            value, terms, gradient = self.value_and_grad(self.sampled(Stream.STEP, step))
            norm = vmap(square_norm)(gradient).sqrt()
            record = {"objective": value, **terms, "gradient_norm": norm}
            self.history.append(record)
            self.finite = torch.stack([v.isfinite() for v in record.values()]).all(0)
            self.roll_back(self.running & ~self.finite)
            self.accept(self.running & (norm == 0))
            moved = self.running & self.finite
            self.update(gradient, moved)
            if (step + 1) % self.solver.check_every == 0 or step + 1 == self.solver.steps:
                record["held_out"] = self.consider(moved)

    def value_and_grad(self, drawn: _Drawn) -> tuple[Tensor, dict[str, Tensor], Params]:
        def at(w: Params, point: Tensor, shared: Params, tensors: dict[str, Any]) -> Any:
            objective = replace(self.objective(shared), lambdas=self.weights(point))
            return self.counted(objective, "value_and_grad", w, drawn.sample(tensors))

        each = vmap(vmap(at, (0, 0, None, None)), (0, None, 0, 0))
        found = each(self.by_problem(self.params), self.lambdas, self.shared, drawn.tensors)
        return _mapped(lambda v: v.flatten(0, 1), found)

    def mean_terms(self, params: Params, names: Sequence[str]) -> dict[str, Tensor]:
        """The raw terms, the mean over the judges."""
        records = []
        for judge in self.judges:

            def at(
                w: Params, shared: Params, tensors: dict[str, Any], judge: _Drawn = judge
            ) -> dict[str, Tensor]:
                sample = judge.sample(tensors)
                return self.counted(self.objective(shared), "mean_terms", w, [sample], names)

            each = vmap(vmap(at, (0, None, None)))
            found = each(self.by_problem(params), self.shared, judge.tensors)
            records.append({name: value.flatten(0, 1) for name, value in found.items()})
        return {name: torch.stack([r[name] for r in records]).mean(0) for name in records[0]}

    def objective(self, shared: Params) -> Objective:
        """L of a problem, one of many: its weights are not set."""
        plain, constants = self.problems[0].objective, _under("constants", shared)
        return replace(
            plain,
            model=lambda w, inputs: plain.model(constants | w, inputs),
            teacher=_under("teacher", shared),
            divisors=cast(Any, _under("divisors", shared)),
        )

    def weights(self, point: Tensor) -> Lambdas:
        named = dict(zip(TERMS, point.unbind(), strict=True))
        return Lambdas(**{n: w if n in self.active else 0.0 for n, w in named.items()})

    def counted(self, objective: Objective, method: str, *arguments: Any) -> Any:
        """One call, counted once for each of the solves that it stands for under ``vmap``."""
        counted = Counted(objective)
        found = getattr(counted, method)(*arguments)
        self.work = _with(self.work, counted)
        return found

    def weigh(self, terms: Mapping[str, Tensor]) -> Tensor:
        weights = dict(zip(TERMS, self.lambdas.unbind(1), strict=True))
        divisors = _under("divisors", self.shared)
        grouped = self.by_problem(dict(terms))
        parts = [weights[n] / divisors[n][:, None] * grouped[n] for n in self.active]
        return torch.stack(parts).sum(0).flatten()

    def sampled(self, stream: Stream, step: int) -> _Drawn:
        size = self.solver.batch_size
        return _Drawn.of(
            [p.objective.sample(p.start, size, p.seed, stream, step) for p in self.problems]
        )

    def update(self, gradient: Params, moved: Tensor) -> None:
        def one(g: Params, state: Any, w: Params) -> tuple[Params, Any]:
            return self.optimizer.update(g, state, params=w, inplace=False)

        try:
            updates, state = vmap(one)(gradient, self.state, self.params)
        except RuntimeError as error:
            raise TypeError(
                f"solver: its optimizer cannot be batched ({str(error).splitlines()[0]}); take one "
                "without control flow that hangs on values, or solve one at a time"
            ) from error
        shorter = 0.5**self.rollbacks
        updates = {name: u * _wide(shorter.to(u), u) for name, u in updates.items()}
        ahead = torchopt.apply_updates(self.params, updates, inplace=False)
        self.params = _chosen(moved, ahead, self.params)
        self.state = _chosen(moved, state, self.state)

    def consider(self, moved: Tensor) -> Tensor:
        """Judge the iterates, and keep those that are the best of their solves."""
        value = self.weigh(self.mean_terms(self.params, self.active))
        self.last_value = torch.where(moved, value, self.last_value)
        better = moved & (value < self.best_value)  # False for NaN
        self.best = _chosen(better, self.params, self.best)
        self.best_value = torch.where(better, value, self.best_value)
        return value

    def roll_back(self, bad: Tensor) -> None:
        self.stop(bad & (self.rollbacks == RETRIES), Status.NON_FINITE)
        back = bad & self.running
        if bool(back.any()):
            self.rollbacks = self.rollbacks + back
            self.params = _chosen(back, self.best, self.params)
            self.state = _chosen(back, vmap(self.optimizer.init)(self.best), self.state)

    def accept(self, still: Tensor) -> None:
        """A gradient of exactly zero ends a solve, if it is zero on the held-out draws as well."""
        for index in still.nonzero().flatten().tolist():
            number, point = divmod(index, len(self.lambdas))
            weights = Lambdas.of(self.lambdas[point].tolist())
            objective = Counted(replace(self.problems[number].objective, lambdas=weights))
            params = {name: value[index] for name, value in self.params.items()}
            judges = [judge.of_problem(number) for judge in self.judges]
            there = moments(objective, params, judges)
            if there.gradient_norm == 0:
                this = torch.arange(len(still), device=still.device) == index
                worse = there.value > float(self.start_value[index])
                if not worse:
                    self.best = _chosen(this, self.params, self.best)
                    self.best_value = self.best_value.masked_fill(this, there.value)
                self.stop(this, Status.DIVERGED if worse else Status.SOLVED, objective)

    def stop(self, which: Tensor, status: Status, last: Counted | None = None) -> None:
        work = replace(self.work, steps=len(self.history))
        for index in (which & self.running).nonzero().flatten().tolist():
            self.ends[index] = status, _with(work, last) if last else work
        self.running = self.running & ~which

    def spent(self, index: int) -> Status:
        """All steps are taken."""
        start, best, last = (
            float(v[index]) for v in (self.start_value, self.best_value, self.last_value)
        )
        if not last <= start:  # NaN, too
            return Status.DIVERGED
        if best < start:
            return Status.BUDGET_SPENT
        return Status.STALLED if self.finite[index] else Status.NON_FINITE

    def outcomes(self, began: float) -> list[Outcome]:
        terms = self.mean_terms(self.best, TERMS)
        history = [{name: v.tolist() for name, v in record.items()} for record in self.history]
        share = (perf_counter() - began) / len(self.running)
        whole = replace(self.work, steps=len(history))
        found = []
        for index in range(len(self.running)):
            status, work = self.ends.get(index) or (self.spent(index), whole)
            mine = [{n: v[index] for n, v in r.items()} for r in history[: work.steps]]
            stats = replace(work, rollbacks=int(self.rollbacks[index]), seconds=share)
            found.append(
                vouched(
                    Outcome(
                        params={name: value[index].clone() for name, value in self.best.items()},
                        status=status,
                        objective=float(self.best_value[index]),
                        start_objective=float(self.start_value[index]),
                        terms={name: float(value[index]) for name, value in terms.items()},
                        start_terms={
                            n: float(value[index]) for n, value in self.start_terms.items()
                        },
                        history=mine,
                        stats=stats,
                    )
                )
            )
        return found

    def each_point(self, per_problem: Params) -> Params:
        """The same for every point of a problem."""
        return {n: v.repeat_interleave(len(self.lambdas), 0) for n, v in per_problem.items()}

    def by_problem(self, params: Params) -> Params:
        return {n: v.unflatten(0, (len(self.problems), -1)) for n, v in params.items()}


@dataclass(frozen=True)
class _Drawn:
    """One draw of every problem, tensors stacked."""

    tensors: dict[str, Any]
    repeat: int | None

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> _Drawn:
        fields = [f for f, value in samples[0]._asdict().items() if f != "repeat"]
        given = [f for f in fields if getattr(samples[0], f) is not None]
        stacked = _stacked([{f: getattr(sample, f) for f in given} for sample in samples])
        return cls(stacked, samples[0].repeat)

    def sample(self, tensors: dict[str, Any]) -> Sample:
        """With tensors of one problem, or those that ``vmap`` lets stand for it."""
        return Sample(**tensors, repeat=self.repeat)

    def of_problem(self, number: int) -> Sample:
        return self.sample(_mapped(lambda v: v[number], self.tensors))


def _stacked(trees: Sequence[Any]) -> Any:
    try:
        return _mapped(lambda *values: torch.stack(values), *trees)
    except RuntimeError as error:
        raise ValueError(
            f"problems: not alike ({error}); their batches and parameters must have one size each"
        ) from error


def _named(problem: Posed) -> Params:
    """What the problem's own tensors and numbers are, in one dictionary."""
    like = next(iter(problem.start.values()))
    divisors = {name: problem.objective.divisors.get(name, 1.0) for name in TERMS}
    parts: dict[str, Mapping[str, Any]] = {
        "teacher": problem.objective.teacher,
        "constants": problem.constants,
        "divisors": {
            name: torch.as_tensor(value, dtype=like.dtype, device=like.device)
            for name, value in divisors.items()
        },
    }
    return {f"{part}.{name}": v for part, values in parts.items() for name, v in values.items()}


def _with(work: Stats, counted: Counted) -> Stats:
    return replace(
        work,
        gradient=work.gradient + counted.gradient,
        forward=work.forward + counted.forward,
        hvp=work.hvp + counted.hvp,
        unsettled=work.unsettled + counted.unsettled,
    )


def _under(part: str, shared: Params) -> Params:
    prefix = f"{part}."
    return {n.removeprefix(prefix): v for n, v in shared.items() if n.startswith(prefix)}


def _chosen(which: Tensor, ours: Any, theirs: Any) -> Any:
    """``ours`` where ``which``, else ``theirs``."""
    return _mapped(lambda a, b: torch.where(_wide(which, a), a, b), ours, theirs)


def _mapped(function: Callable[..., Tensor], *trees: Any) -> Any:
    return pytree.tree_map(function, *trees)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


@contextmanager
def _fallbacks_unmentioned() -> Iterator[None]:
    """TorchOpt's updates use operations that PyTorch batches by a loop, and says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield
