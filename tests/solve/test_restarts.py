import pytest
import torch

import phiopt
from phiopt.solve.restarts import SPREAD, perturbed
from tests.cases import generator, mlp, randn


def test_starts_are_seeded_and_scaled_to_each_tensor():
    start = {"a": 100 * randn(2000), "b": randn(2000), "zero": torch.zeros(3)}
    first, second = perturbed(start, 2, seed=1)
    assert all(torch.equal(first[k], perturbed(start, 1, seed=1)[0][k]) for k in start)
    assert not torch.equal(first["a"], second["a"])
    for name in ("a", "b"):
        moved = (first[name] - start[name]).norm() / start[name].norm()
        assert float(moved) == pytest.approx(SPREAD, rel=0.1)
    assert torch.equal(first["zero"], start["zero"])


def test_restarts_are_reported_on_the_same_fresh_draws():
    """λ2 holds all coordinates that matter: every start reaches the one minimum."""
    data = randn(30, 4, seed=3), torch.randint(2, (30,), generator=generator(4))
    teacher = mlp(4, 3, 2, seed=1)
    solution = phiopt.initialize(
        teacher, mlp(4, 3, 2, seed=2), (0.2, 0.8, 0, 0), data, scale="paper",
        solver=phiopt.LBFGS(), restarts=2,
    )  # fmt: skip
    assert solution.certificate.restarts == pytest.approx(
        (solution.certificate.objective,) * 2, rel=1e-6
    )
    assert "restarts reached" in str(solution)
    assert phiopt.initialize(teacher, mlp(4, 3, 2), (0, 1, 0, 0)).certificate.restarts == ()
