"""Cases of the fault campaign: which part fails, how and when, amid what, and the run of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchopt
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchopt.base import GradientTransformation

import phiopt
from phiopt.bilevel import Implicit, Mirror, Optuna, OuterLoss, Replay, Unroll
from phiopt.objective import Lambdas
from phiopt.pose import pose
from phiopt.solve import LBFGS, NewtonCG, TorchOpt
from tests.cases import flatten, generator, mlp, parameters, randn
from tests.solve.faults import (
    KINDS,
    VALUES,
    Around,
    Batches,
    Items,
    Net,
    Order,
    Streamed,
    X,
    Y,
    same,
)

V = randn(10, 3, seed=5), torch.randint(3, (10,), generator=generator(6))
SIZE = 8
WITH, WITHOUT = (0.3, 0.3, 0.2, 0.2), (0.4, 0.3, 0.3, 0.0)


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
            actual, state = sgd.update(updates, state, params=params, inplace=inplace)
            first = next(iter(actual))
            return {**actual, first: at["optimizer"](actual[first])}, state

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
            certificate="full" if case.number % 2 else "light",
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
