"""Runs in which a user's part fails at one of its calls: which part, how, when, amid what."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import torch
import torchopt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from torchopt.base import GradientTransformation

import phiopt
from phiopt.bilevel import AdjointError, Implicit, Mirror, Optuna, OuterLoss, Replay, Unroll
from phiopt.objective import Lambdas, Stream, Uniform
from phiopt.pose import pose
from phiopt.solve import LBFGS, NewtonCG, Solution, SolveError, Status, TorchOpt
from tests.cases import flatten, generator, mlp, parameters, randn

X, Y = randn(24, 3, seed=3), torch.randint(2, (24,), generator=generator(4))
V = randn(10, 3, seed=5), torch.randint(3, (10,), generator=generator(6))
SIZE = 8
WITH, WITHOUT = (0.3, 0.3, 0.2, 0.2), (0.4, 0.3, 0.3, 0.0)


class OwnError(Exception):
    """A user's."""


VALUES = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "1e30": 1e30}
ERRORS = (
    ValueError,
    RuntimeError,
    OSError,
    MemoryError,
    StopIteration,
    KeyError,
    OwnError,
    KeyboardInterrupt,
)
KINDS = (*VALUES, *(error.__name__ for error in ERRORS))
REFUSALS = ("ValueError", "RuntimeError", "KeyError")
"""What a forward pass may raise at a shape, to which it is then not traced."""


class Fault:
    """Called with what a part gives: at call number ``when``, and from there on if ``lasting``, gives
    something else or raises. Copies are itself.
    """

    def __init__(self, kind: str, when: int, lasting: bool) -> None:
        self.kind, self.when, self.lasting = kind, when, lasting
        self.calls, self.raised, self.struck = 0, [], False

    def __deepcopy__(self, memo: object) -> Fault:
        return self

    def __call__(self, value: Any = None) -> Any:
        self.calls += 1
        due = self.calls >= self.when if self.lasting else self.calls == self.when
        if not due or (self._tracing(value) and self.kind in REFUSALS):
            return value
        self.struck = True
        if self.kind in VALUES:
            if not isinstance(value, Tensor):
                return value
            first = torch.arange(value.numel(), device=value.device).view(value.shape) == 0
            return value * torch.where(first, VALUES[self.kind], 1.0)
        error = {e.__name__: e for e in ERRORS}[self.kind]("the fault")
        self.raised.append(error)
        raise error

    @staticmethod
    def _tracing(value: Any) -> bool:
        return isinstance(value, Tensor) and value.is_meta

    def reached(self, error: BaseException | None) -> bool:
        """Whether ``error`` is what was raised, or has it among its causes."""
        while error is not None:
            if any(error is one for one in self.raised):
                return True
            error = error.__cause__
        return False


class Net(nn.Module):
    def __init__(self, net: nn.Module, fault: Any) -> None:
        super().__init__()
        self.net, self.fault = net, fault

    def forward(self, x: Tensor) -> Tensor:
        return self.fault(self.net(x))


class Items(Dataset):
    def __init__(self, fault: Any) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.fault(X[i]), Y[i]


class Streamed(IterableDataset):
    def __init__(self, fault: Any) -> None:
        self.fault = fault

    def __iter__(self) -> Any:
        for x, y in zip(X, Y, strict=True):
            yield self.fault(x), y


class Order(Sampler):
    def __init__(self, fault: Any) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return len(X)

    def __iter__(self) -> Any:
        for i in torch.randperm(len(X)).tolist():
            self.fault()
            yield i


class Batches(DataLoader):
    fault: Any = None

    def __iter__(self) -> Any:
        for x, y in super().__iter__():
            yield self.fault(x), y


@dataclass(frozen=True)
class Around(Uniform):
    fault: Any = None

    def perturb(self, inputs: Tensor, draw: Any) -> Tensor:
        return self.fault(super().perturb(inputs, draw))


def same(value: Any = None) -> Any:
    return value


SOLVERS = {
    "torchopt": lambda o: TorchOpt(o, steps=8, batch_size=SIZE, check_every=3),
    "tolerant": lambda o: TorchOpt(o, steps=25, batch_size=SIZE, check_every=5, tol=0.5),
    "saa": lambda o: TorchOpt(o, steps=8, batch_size=SIZE, fresh=False),
    "saa-to-tol": lambda o: TorchOpt(o, steps=60, batch_size=SIZE, fresh=False, tol=0.5),
    "lbfgs": lambda o: LBFGS(draws=2, batch_size=SIZE, tol=0.05),
    "lbfgs-growing": lambda o: LBFGS(batch_size=16, tol=0.1),
    "krylov": lambda o: NewtonCG(draws=1, batch_size=SIZE, tol=1e-2),
    "newton-cg": lambda o: NewtonCG("newton-cg", draws=1, batch_size=SIZE, tol=1e-2),
}
STEPPING = ("torchopt", "tolerant", "saa", "saa-to-tol")
ADJOINTS = {
    "replay": Replay(),
    "replay-2": Replay(every=2),
    "unroll": Unroll(),
    "unroll-3": Unroll(last=3),
    "implicit": Implicit(tol=0.5),
}
SOURCES = ("tensors", "dataset", "loader", "stream")
PLACES = {  # and the sources that have them
    "forward": SOURCES,
    "teacher": SOURCES,
    "loss": SOURCES,
    "lift": SOURCES,
    "perturb": SOURCES,
    "optimizer": SOURCES,
    "getitem": ("dataset", "loader", "stream"),
    "loader": ("loader", "stream"),
    "collate": ("loader", "stream"),
    "sampler": ("loader",),
    "outer": ("tensors", "dataset"),
}
LONGEST = {"getitem": 400, "sampler": 300, "loader": 40, "collate": 40, "teacher": 2, "outer": 30}
"""Calls among which the fault is; elsewhere 120."""


@dataclass(frozen=True)
class Case:
    """One run of the campaign, all of it drawn from its number."""

    number: int
    place: str
    kind: str
    when: int
    lasting: bool
    verb: str
    solver: str
    adjoint: str | None
    restarts: int
    source: str
    curved: bool
    throw: bool

    @classmethod
    def of(cls, number: int) -> Case:
        draw = np.random.default_rng([14, number])

        def one(names: Any) -> Any:
            return names[int(draw.integers(len(names)))]

        place = one(
            [name for name in PLACES for _ in range(1 if name in ("teacher", "outer") else 3)]
        )
        verb = "learn" if place == "outer" else one(["initialize"] * 8 + ["solve_many", "learn"])
        solver = one([*SOLVERS] if place != "optimizer" and verb == "initialize" else STEPPING)
        if verb != "initialize":
            solver = "torchopt"
        adjoint = None
        if verb == "initialize" and draw.random() < 0.5:
            adjoint = one(
                [n for n in ADJOINTS if n != "implicit"] if solver in STEPPING else ["implicit"]
            )
            if solver == "saa-to-tol" and draw.random() < 0.5:
                adjoint = "implicit"
        source = one(PLACES[place])
        kinds = KINDS if place not in ("sampler",) else KINDS[len(VALUES) :]
        return cls(
            number=number,
            place=place,
            kind=one(kinds),
            when=int(np.exp(draw.uniform(0, np.log(LONGEST.get(place, 120) + 1)))),
            lasting=bool(draw.random() < 0.4),
            verb=verb,
            solver=solver,
            adjoint=adjoint,
            restarts=int(draw.integers(3)) if draw.random() < 0.4 else 0,
            source=source,
            curved=bool(draw.random() < 0.4),
            throw=bool(draw.random() < 0.5),
        )

    def __str__(self) -> str:
        parts = [self.number, self.place, self.kind, f"{self.when}{'+' * self.lasting}", self.verb]
        parts += [self.solver, self.adjoint, f"r{self.restarts}", self.source]
        parts += ["curved" * self.curved, "throw" * self.throw]
        return "-".join(str(part) for part in parts if part)


class Run:
    """A case with its parts made, the one of its place at fault."""

    def __init__(self, case: Case, fault: Any) -> None:
        self.case, self.fault = case, fault
        at = {name: same for name in PLACES} | {case.place: fault}
        self.teacher = Net(mlp(3, 3, 2, seed=1), at["teacher"])
        self.student = Net(mlp(3, 4, 3, seed=2), at["forward"])
        self.lambdas = Lambdas.of(WITH if case.curved else WITHOUT)
        self.x, self.y = X.clone(), Y.clone()
        self.loader_generator = generator(9)
        items = Items(at["getitem"])

        def collated(pairs: Any) -> Any:
            xs, ys = zip(*pairs, strict=True)
            return at["collate"](torch.stack(xs)), torch.stack(ys)

        made: dict[str, Any] = {"batch_size": SIZE, "collate_fn": collated}
        # A loader's generator of its own would take a StopIteration from within for its end.
        kind = Batches if case.place == "loader" else DataLoader
        if case.source == "tensors":
            self.data: Any = self.x, self.y
        elif case.source == "dataset":
            self.data = items
        elif case.source == "loader":
            made |= (
                {"sampler": Order(at["sampler"])}
                if case.place == "sampler"
                else {"shuffle": True, "generator": self.loader_generator}
            )
            self.data = kind(items, **made)
        else:
            self.data = kind(Streamed(at["getitem"]), **made)
        if isinstance(self.data, Batches):
            self.data.fault = at["loader"]
        sgd = torchopt.sgd(0.1)

        def update(updates: Any, state: Any, *, params: Any = None, inplace: bool = True) -> Any:
            found, state = sgd.update(updates, state, params=params, inplace=inplace)
            first = next(iter(found))
            return {**found, first: at["optimizer"](found[first])}, state

        self.solver = SOLVERS[case.solver](GradientTransformation(sgd.init, update))
        self.loss = lambda z, y: at["loss"](cross_entropy(z, y, reduction="none"))
        self.outer_loss = lambda z, y: at["outer"](cross_entropy(z, y, reduction="none"))
        self.options: dict[str, Any] = {
            "lift": at["lift"] if case.place == "lift" else None,
            "loss": self.loss,
            "neighbourhood": Around(0.1, fault=at["perturb"]),
        }

    def __call__(self) -> Any:
        case, given = self.case, (self.teacher, self.student)
        if case.verb == "learn":
            search = Optuna(trials=3) if case.number % 2 else Mirror(budget=6)
            outer = OuterLoss(V, loss=self.outer_loss)
            options = {"solver": self.solver, "search": search, "lambdas": self.lambdas}
            return phiopt.learn(*given, self.data, outer, **options, **self.options)
        if case.verb == "solve_many":
            posed = pose(*given, self.lambdas, self.data, scale="paper", **self.options)
            points = torch.tensor([tuple(float(v) for _, v in self.lambdas.items()), WITHOUT])
            return posed.solve_many(points, solver=self.solver)
        adjoint = None if case.adjoint is None else ADJOINTS[case.adjoint]
        weights = self.lambdas
        if adjoint is not None:
            self.point = torch.tensor([float(v) for _, v in weights.items()], requires_grad=True)
            weights = Lambdas.of(self.point.double())
        return phiopt.initialize(
            *given,
            weights,
            self.data,
            solver=self.solver,
            adjoint=adjoint,
            restarts=case.restarts,
            throw=case.throw,
            **self.options,
        )

    def held(self) -> Tensor:
        """All that a run must leave as it is."""
        parts = [
            flatten(parameters(self.teacher)),
            flatten(parameters(self.student)),
            self.x.flatten(),
        ]
        states = [torch.get_rng_state(), self.loader_generator.get_state()]
        return torch.cat([*parts, self.y.double(), *(s.double() for s in states)])


def numbers(value: Any, name: str = "") -> dict[str, float]:
    """The numbers in dataclasses, dictionaries, lists and tensors, by where they are."""
    if isinstance(value, bool) or value is None:
        return {}
    if isinstance(value, int | float):
        return {name: float(value)}
    if isinstance(value, Tensor):
        return {name: float(value.detach().abs().max())}
    if is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {}
    parts = [numbers(part, f"{name}.{key}") for key, part in value.items()]
    return {key: number for part in parts for key, number in part.items()}


REPORTED = (
    "params",
    "terms",
    "start_terms",
    "objective",
    "start_objective",
    "certificate",
    "divisors",
)
NAMES = (
    "teacher",
    "student",
    "loss",
    "data",
    "lift",
    "neighbourhood",
    "solver",
    "outer",
    "adjoint",
)


def check(case: Case) -> bool:
    """Run a case and assert every rule; whether the fault was met."""
    fault = Fault(case.kind, case.when, case.lasting)
    run = Run(case, fault)
    before, found, error = run.held(), None, None
    try:
        found = run()
    except BaseException as raised:
        error = raised
    if case.verb != "solve_many":  # which seeds nothing
        assert torch.equal(run.held(), before), "an argument or the global generator was changed"
    if isinstance(error, KeyboardInterrupt) and not fault.raised:
        raise error
    if error is None:
        check_result(case, fault, found)
    else:
        check_error(fault, error)
        if isinstance(error, SolveError):
            check_solution(case, fault, error.solution)
    return fault.struck


def check_error(fault: Fault, error: BaseException) -> None:
    if not fault.struck:
        assert isinstance(error, SolveError), f"nothing failed, yet {error!r}"
        return
    if fault.raised:
        assert fault.reached(error), f"not of the fault: {error!r}"
        return
    known = (SolveError, AdjointError, ValueError, TypeError, FloatingPointError)
    assert isinstance(error, known), repr(error)
    if not isinstance(error, SolveError | AdjointError):
        assert any(name in str(error) for name in NAMES), f"names no place: {error}"


def check_result(case: Case, fault: Fault, found: Any) -> None:
    assert case.kind != "KeyboardInterrupt" or not fault.raised, "an interrupt was swallowed"
    if case.verb == "solve_many":
        assert not fault.raised, "what was raised is lost"
        for outcome in found:
            check_numbers(case, fault, outcome)
        return
    if case.verb == "learn":
        solution, error = found.solution, found.error
        assert isfinite(found.outer)
        assert found.outer <= found.start_outer
    else:
        solution, error = found, found.error
        assert not (case.throw and solution.status.failed)
    assert not fault.raised or fault.reached(error), f"what was raised is lost: {solution.status}"
    check_solution(case, fault, solution)


def check_solution(case: Case, fault: Fault, solution: Solution) -> None:
    own = dict(solution.student.named_parameters())
    for name, value in solution.params.items():
        assert torch.equal(own[name], value), f"student and params differ in {name}"
    check_numbers(case, fault, solution)
    if solution.status is Status.SOLVED and "curvature" in solution.terms:
        assert solution.certificate.spectrum is not None, "SOLVED, and the spectrum is lost"


def check_numbers(case: Case, fault: Fault, found: Any) -> None:
    assert flatten(found.params).isfinite().all(), "the best iterate is not finite"
    if isfinite(found.start_objective):
        assert found.objective <= found.start_objective
    if found.status.failed:
        return
    said = numbers({name: getattr(found, name, None) for name in REPORTED})
    assert all(map(isfinite, said.values())), {k: v for k, v in said.items() if not isfinite(v)}
    if not case.lasting and case.verb == "initialize" and case.kind in VALUES:
        large = {name: value for name, value in said.items() if abs(value) > 1e12}
        assert not large, f"{found.status}: {large}"
        posed = problem_without_a_fault(case)
        start, end = (value(posed, w) for w in (posed.start, found.params))
        small = found.status is Status.SAMPLE_TOO_SMALL  # says itself that it may be no better
        assert small or end <= 1.1 * start + 0.02, f"{found.status}, from {start} to {end}"
        for name, divisor in posed.objective.divisors.items():
            ratio = found.divisors.get(name, 1.0) / divisor
            # A loader's first batch may have been refused, and the next be another one.
            assert 1 / 30 < ratio < 30, (
                f"{found.status}: {name} is divided by {ratio:.3g} of its size"
            )


def problem_without_a_fault(case: Case) -> Any:
    run = Run(case, same)
    return pose(run.teacher, run.student, run.lambdas, (X, Y), loss=run.loss, batch_size=SIZE)


def value(posed: Any, params: Any) -> float:
    """The task, proximity and noise, on all data, in the paper's scale."""
    objective = replace(posed.objective, lambdas=Lambdas.of(WITHOUT), divisors={})
    with torch.no_grad():
        sample = objective.sample(posed.start, None, 0, Stream.FRESH, 0)
        return float(objective.value({k: v.detach() for k, v in params.items()}, sample))
