"""A fifth term from outside: elastic weight consolidation, a proximity weighted by Fisher's information."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import phiopt
from phiopt.bilevel import OuterLoss
from phiopt.objective import Frobenius, Gaussian, Spectral, Term
from tests.cases import flatten, generator, parameters, randn
from tests.extra_terms import LAMBDAS, QUICK, Far, Sharpness, X, Y, models

V = randn(50, 4, seed=5), torch.randint(3, (50,), generator=generator(6))


@dataclass(frozen=True, eq=False)
class Consolidation(Term):
    """Σ_i F_i (u_i − w[u]_i)², for the diagonal F of Fisher's information of the teacher (Kirkpatrick et
    al. 2017).
    """

    name: ClassVar[str] = "consolidation"
    over: ClassVar[str] = "parameters"

    map: phiopt.GrowthMap
    teacher: dict
    fisher: dict

    def value(self, at, draws):
        carried = self.map.extract(at.params)
        parts = [
            (self.fisher[n] * (self.teacher[n] - w).square()).sum() for n, w in carried.items()
        ]
        return torch.stack(parts).sum()


@dataclass(frozen=True)
class Entropy(Term):
    """−E Σ p log p of the student's predictions: a term over the examples that shares their outputs."""

    name: ClassVar[str] = "entropy"

    def value(self, at, draws):
        logs = at.outputs.log_softmax(1)
        return -(logs.exp() * logs).sum(1).mean()


@dataclass(frozen=True)
class Decay(Term):
    """‖w‖²: with it every minimiser is isolated."""

    name: ClassVar[str] = "decay"
    over: ClassVar[str] = "parameters"

    def value(self, at, draws):
        return torch.stack([w.square().sum() for w in at.params.values()]).sum()


def consolidation(small, large):
    fisher = {
        n: randn(*p.shape, seed=i).abs() for i, (n, p) in enumerate(parameters(small).items())
    }
    return Consolidation(phiopt.GrowthMap.between(small, large), parameters(small), fisher)


THREE = (0.4, 0.4, 0.2, 0.0)
SOLVERS = {
    "TorchOpt": (QUICK, LAMBDAS, None),
    "TorchOpt in parts": (QUICK, LAMBDAS, 7),
    "LBFGS": (phiopt.LBFGS(draws=1, tol=0.05), THREE, None),
    "LBFGS in parts": (phiopt.LBFGS(draws=1, tol=0.05), THREE, 20),
    "NewtonCG": (phiopt.NewtonCG(draws=1, tol=0.05), THREE, 20),
}


@pytest.mark.parametrize(
    ("solver", "lambdas", "micro_batch"),
    [
        pytest.param(*case, id=name, marks=[pytest.mark.slow] * (name != "TorchOpt"))
        for name, case in SOLVERS.items()
    ],
)
def test_every_solver_minimises_the_sum_with_it(solver, lambdas, micro_batch):
    small, large = models()
    extra = [(2.0, consolidation(small, large)), (0.1, Entropy())]
    options = {"solver": solver, "scale": "paper", "micro_batch": micro_batch, "throw": False}
    with_it = phiopt.initialize(small, large, lambdas, (X, Y), extra=extra, **options)
    assert with_it.objective < with_it.start_objective
    weights = dict(phiopt.Lambdas.of(lambdas).items()) | {"consolidation": 2.0, "entropy": 0.1}
    weights = {name: weight for name, weight in weights.items() if weight}
    assert list(with_it.terms) == list(weights)
    assert with_it.objective == pytest.approx(sum(w * with_it.terms[n] for n, w in weights.items()))
    assert with_it.extra == {"consolidation": 2.0, "entropy": 0.1}
    assert "consolidation" in str(with_it)
    without = phiopt.initialize(small, large, lambdas, (X, Y), **options)
    problem = phiopt.pose(small, large, lambdas, (X, Y), extra=extra, scale="paper")
    sample = problem.objective.sample(problem.start, None, 0, 1, 0)
    ours, theirs = (
        float(problem.objective.evaluate(s.params, sample)["consolidation"])
        for s in (with_it, without)
    )
    assert ours < theirs


def test_parts_of_the_batch_give_the_same_gradient():
    small, large = models()
    extra = [(2.0, consolidation(small, large)), (0.1, Entropy())]
    extra += [(0.3, Sharpness(Frobenius(batch=None))), (0.2, Far(Gaussian(0.5)))]
    whole, parts = (
        phiopt.pose(small, large, LAMBDAS, (X, Y), extra=extra, micro_batch=size)
        for size in (None, 7)
    )
    for stream in (1, 4):
        sample = whole.objective.sample(whole.start, None, 0, stream, 0)
        expected = whole.objective.value_and_grad(whole.start, sample)
        gradients = parts.objective.value_and_grad(whole.start, sample)
        torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("adjoint", [phiopt.Replay(), phiopt.Unroll(), phiopt.Implicit()])
def test_every_adjoint_differentiates_in_its_weight(adjoint):
    """Against central differences."""
    small, large = models()
    terms = [(0.5, Decay()), (0.5, consolidation(small, large))]
    implicit = isinstance(adjoint, phiopt.Implicit)
    solver = phiopt.LBFGS(draws=1, tol=1e-8) if implicit else QUICK
    problem = phiopt.pose(small, large, (0.3, 0.5, 0.2, 0), (X, Y), extra=terms, scale="paper")
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    direction = randn(len(flatten(problem.start)), seed=8)

    def outer(weight, adjoint=None):
        extra = {"consolidation": weight}
        solution = problem.solve(extra=extra, solver=solver, adjoint=adjoint, throw=False)
        return flatten(solution.params) @ direction

    (gradients,) = torch.autograd.grad(outer(weight, adjoint), weight)
    h = 1e-4
    expected = float(outer(0.5 + h) - outer(0.5 - h)) / (2 * h)
    assert float(gradients) == pytest.approx(expected, rel=1e-3)


def test_many_points_at_once_have_it_too():
    small, large = models()
    problem = phiopt.pose(small, large, LAMBDAS, (X, Y), extra=[(2.0, consolidation(small, large))])
    points = torch.tensor([LAMBDAS, (0.1, 0.6, 0.3, 0.0)], dtype=torch.float64)
    for point, actual in zip(points, problem.solve_many(points, solver=QUICK), strict=True):
        alone = problem.solve(point.tolist(), solver=QUICK)
        torch.testing.assert_close(flatten(actual.params), flatten(alone.params))
        assert actual.terms == pytest.approx(alone.terms)


def test_it_is_there_in_a_search_and_in_a_saved_solution(tmp_path):
    small, large = models()
    extra = [(2.0, consolidation(small, large))]
    search = phiopt.Mirror(budget=6)
    options = {"solver": QUICK, "search": search, "extra": extra}
    solution = phiopt.learn(small, large, (X, Y), OuterLoss(V), **options).solution
    assert solution.extra == {"consolidation": 2.0}
    solution.save(tmp_path / "solution")
    loaded = phiopt.Solution.load(tmp_path / "solution", large)
    assert loaded.extra == solution.extra
    assert loaded.terms == solution.terms


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        (3, TypeError, "^extra: got 3, must be pairs"),
        ([(0.5, "term")], TypeError, "^extra: got .*must be pairs"),
        ([(-0.5, Entropy())], ValueError, r"^extra.entropy: got -0.5, must be non-negative"),
        ([(float("inf"), Entropy())], ValueError, r"^extra.entropy: got inf, must be"),
        ([(0.5, Entropy())] * 2, ValueError, "^extra: two terms are called 'entropy'"),
    ],
)
def test_bad_extra_terms_are_named(extra, error, message):
    with pytest.raises(error, match=message):
        phiopt.initialize(*models(), LAMBDAS, (X, Y), extra=extra)


def test_terms_that_need_data_or_were_not_posed_are_named():
    with pytest.raises(ValueError, match=r"^extra: entropy needs data"):
        phiopt.initialize(*models(), (0, 1, 0, 0), extra=[(0.5, Entropy())])
    problem = phiopt.pose(*models(), (0.5, 0.5, 0, 0), (X, Y), extra=[(0.5, Entropy())])
    with pytest.raises(ValueError, match=r"^extra: got a weight for 'fisher', .*: entropy$"):
        problem.solve(extra={"fisher": 1.0})


def test_a_term_that_is_no_scalar_is_named():
    class Vector(Entropy):
        def value(self, at, draws):
            return at.outputs.square().mean(1)

    with pytest.raises(
        TypeError, match=r"^entropy: its value is \(\d+,\), must be a tensor without"
    ):
        phiopt.initialize(*models(), LAMBDAS, (X, Y), extra=[(0.5, Vector())], solver=QUICK)


@pytest.mark.slow
def test_estimators_of_the_curvature_work_beside_it():
    small, large = models()
    extra = [(2.0, consolidation(small, large))]
    options = {"extra": extra, "solver": QUICK, "curvature": Spectral(iterations=20)}
    solution = phiopt.initialize(small, large, LAMBDAS, (X, Y), **options)
    assert solution.objective < solution.start_objective
