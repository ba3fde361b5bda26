import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phiopt.bilevel.linear import CG, MINRES, Damped, LinearStatus
from tests.cases import randn

POSITIVE = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
INDEFINITE = (-2.0, -0.5, 1.0, 1.5, 3.0, 4.0)
SINGULAR = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0)


def matrix(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues, and its eigenvectors as columns."""
    n = len(eigenvalues)
    q = torch.linalg.qr(randn(n, n, seed=seed))[0]
    return q @ torch.tensor(eigenvalues, dtype=torch.float64).diag() @ q.T, q


def solved(solver, a, b):
    actual = solver(lambda v: a @ v, b)
    assert actual.residual == pytest.approx(float((b - a @ actual.x).norm() / b.norm()), abs=1e-14)
    return actual


@pytest.mark.parametrize("limit", [2, 30, 500])
def test_minres_finds_out_an_operator_that_is_not_symmetric(limit):
    for seed in range(5):
        solution = solved(MINRES(max_iterations=limit), randn(12, 12, seed=seed), randn(12, seed=9))
        assert solution.status is LinearStatus.ASYMMETRIC


@pytest.mark.parametrize(
    "solver",
    [CG(1e-12), MINRES(1e-12), Damped(1e-13, CG(1e-11))],
    ids=lambda s: type(s).__name__,
)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_a_positive_definite_system_is_solved(solver, seed):
    a, _ = matrix(POSITIVE, seed)
    b = randn(6, seed=seed + 1)
    actual = solver(lambda v: a @ v, b)
    assert actual.status is LinearStatus.SOLVED
    torch.testing.assert_close(actual.x, torch.linalg.solve(a, b), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(CG, scipy.sparse.linalg.cg), (MINRES, scipy.sparse.linalg.minres)]
)
@pytest.mark.parametrize("iterations", [1, 3, 8])
def test_iterates_are_scipys(ours, theirs, iterations):
    """Cut short, both are at the same point of the same Krylov space."""
    a, _ = matrix(tuple(np.linspace(0.3, 5, 20)))
    b = randn(20, seed=1)
    solution = solved(ours(1e-12, iterations), a, b)
    expected, info = theirs(a.numpy(), b.numpy(), rtol=1e-14, maxiter=iterations)
    torch.testing.assert_close(solution.x, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
    assert info > 0
    assert solution.status is LinearStatus.ITERATION_LIMIT
    assert solution.iterations == iterations


def test_an_indefinite_system_is_told_from_a_solved_one():
    a, _ = matrix(INDEFINITE)
    b = randn(6, seed=1)
    stopped = solved(CG(), a, b)
    assert stopped.status is LinearStatus.INDEFINITE
    assert stopped.residual > 1e-3
    solution = solved(MINRES(1e-11), a, b)
    assert solution.status is LinearStatus.SOLVED
    torch.testing.assert_close(solution.x, torch.linalg.solve(a, b), rtol=1e-8, atol=1e-8)
    theirs, info = scipy.sparse.linalg.minres(a.numpy(), b.numpy(), rtol=1e-12)
    assert info == 0
    torch.testing.assert_close(solution.x, torch.from_numpy(theirs), rtol=1e-8, atol=1e-8)


def test_a_singular_system_with_the_right_side_outside_its_range():
    a, q = matrix(SINGULAR)
    b = q.sum(1)
    for solver in (CG(1e-10), MINRES(1e-10)):
        assert solved(solver, a, b).status is not LinearStatus.SOLVED
    eye = torch.eye(6, dtype=torch.float64)
    damped = Damped(0.1, CG(1e-12))(lambda v: a @ v, b)
    assert damped.status is LinearStatus.SOLVED
    torch.testing.assert_close(damped.x, torch.linalg.solve(a + 0.1 * eye, b))


@given(seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_minres_tells_a_singular_system_from_an_ill_conditioned_one(seed):
    singular, q = matrix((0.0, -1.0, 2.0, 5.0), seed)
    ill, p = matrix((1e-5, -1.0, 2.0, 5.0), seed)
    assert solved(MINRES(1e-9), singular, q.sum(1)).status is LinearStatus.SINGULAR
    solution = solved(MINRES(1e-8), ill, p.sum(1))
    assert solution.status is LinearStatus.SOLVED
    torch.testing.assert_close(ill @ solution.x, p.sum(1), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_minres_that_runs_off_along_null_vectors_does_not_ask_for_more_steps(seed, dtype):
    """As in the Hessian of a net: null vectors beside eigenvalues over several powers of ten."""
    a, _ = matrix((0.0,) * 4 + tuple(np.logspace(-5, 0, 41)), seed)
    a, b = a.to(dtype), randn(45, seed=seed + 1).to(dtype)
    assert MINRES(1e-3, 5)(lambda v: a @ v, b).status is LinearStatus.ITERATION_LIMIT
    assert MINRES(1e-3)(lambda v: a @ v, b).status is LinearStatus.SINGULAR


def test_a_singular_system_with_the_right_side_in_its_range():
    a, q = matrix(SINGULAR)
    wanted = q[:, 1:].sum(1)
    for solver in (CG(1e-11), MINRES(1e-11)):
        solution = solved(solver, a, a @ wanted)
        assert solution.status is LinearStatus.SOLVED
        torch.testing.assert_close(solution.x, wanted, rtol=1e-8, atol=1e-8)


def test_the_zero_matrix():
    b = randn(4)
    zero = torch.zeros(4, 4, dtype=torch.float64)
    assert solved(CG(), zero, b).status is LinearStatus.INDEFINITE
    assert solved(MINRES(), zero, b).status is LinearStatus.SINGULAR


SOLVERS = [CG(), MINRES(), Damped(0.1)]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_nothing_on_the_right_is_solved_by_nothing(solver):
    a, _ = matrix(INDEFINITE)
    actual = solver(lambda v: a @ v, torch.zeros(6, dtype=torch.float64))
    assert actual.status is LinearStatus.SOLVED
    assert actual.iterations == 0
    assert not actual.x.any()


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("when", [1, 3])
def test_a_product_that_is_not_finite_is_no_solution(solver, when):
    a, _ = matrix(POSITIVE)
    calls = []

    def faulty(v):
        calls.append(1)
        return a @ v + (torch.nan if len(calls) >= when else 0.0)

    actual = solver(faulty, randn(6, seed=1))
    assert actual.status is LinearStatus.NON_FINITE


def test_rounding_that_stops_a_method_is_told():
    a, _ = matrix(tuple(np.logspace(-9, 0, 6)))
    actual = CG(1e-6, 10_000)(lambda v: a.float() @ v, randn(6, seed=1).float())
    assert actual.status is not LinearStatus.SOLVED


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@given(
    eigenvalues=st.lists(
        st.floats(-10, 10).map(lambda x: round(x, 3)) | st.just(0.0), min_size=1, max_size=8
    ),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_the_status_is_honest_for_any_symmetric_matrix(solver, eigenvalues, scale, dtype, seed):
    """Definite or not, singular or not: solved is what a product of its own confirms."""
    a = (scale * matrix(eigenvalues, seed)[0]).to(dtype)
    a, b = (a + a.T) / 2, randn(len(eigenvalues), seed=seed + 1).to(dtype)
    actual = solver(lambda v: a @ v, b)
    shift = getattr(solver, "damping", 0.0)
    if actual.status is LinearStatus.SOLVED:
        left = float((b - a @ actual.x - shift * actual.x).norm() / b.norm())
        tol = getattr(solver, "solver", solver).tol
        assert left <= tol * (1 + 1e-3) + 10 * torch.finfo(dtype).eps
    elif actual.status is LinearStatus.INDEFINITE:
        assert min(eigenvalues) * scale + shift <= 1e-5 * scale * max(map(abs, eigenvalues))


@given(seed=st.integers(0, 2**16), power=st.integers(-8, 8))
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("solver", [CG(1e-10), MINRES(1e-10)], ids=lambda s: type(s).__name__)
def test_units_do_not_matter(solver, seed, power):
    a, _ = matrix(POSITIVE, seed)
    b, unit = randn(6, seed=seed + 1), 10.0**power
    actual, scaled = solver(lambda v: a @ v, b), solver(lambda v: unit * (a @ v), b)
    assert (scaled.status, scaled.iterations) == (actual.status, actual.iterations)
    torch.testing.assert_close(unit * scaled.x, actual.x, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("size", [1e-44, 1e-40, 1e-25, 1e20, 3e38])
@pytest.mark.parametrize("solver", [CG(), MINRES(), Damped(1.0)], ids=lambda s: type(s).__name__)
def test_squares_that_vanish_or_overflow_in_float32_are_not_taken(solver, size):
    """Of 1e-25 the square is 0, and so was the answer, as solved."""
    a, b = torch.tensor([2.0, 4.0]).diag(), torch.full((2,), size)
    actual = solver(lambda v: a @ v, b)
    shift = solver.damping if isinstance(solver, Damped) else 0.0
    assert actual.status is LinearStatus.SOLVED
    torch.testing.assert_close(actual.x, b / (a.diagonal() + shift), rtol=1e-5, atol=2e-45)


def test_a_class_is_no_solver_of_the_damped_system():
    with pytest.raises(TypeError, match=r"^solver: got the class CG"):
        Damped(1.0, CG)


@pytest.mark.parametrize("kind", [CG, MINRES])
def test_bad_arguments(kind):
    for tol in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="tol: got"):
            kind(tol)
    with pytest.raises(ValueError, match="max_iterations: got 0"):
        kind(1e-3, 0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_damping(value):
    with pytest.raises(ValueError, match="damping: got"):
        Damped(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_symmetric_system_without_a_solution_is_not_called_asymmetric(dtype):
    for seed in range(40):
        n = 2 + seed % 10
        q = torch.linalg.qr(randn(n, n, seed=seed))[0]
        eigenvalues = torch.linspace(0, 1, n, dtype=q.dtype)
        a = ((q * eigenvalues) @ q.T).to(dtype)
        a, b = (a + a.T) / 2, randn(n, seed=100 + seed).to(dtype)
        actual = MINRES()(lambda v, a=a: a @ v, b)
        assert actual.status in (LinearStatus.SINGULAR, LinearStatus.STALLED), (seed, actual)
