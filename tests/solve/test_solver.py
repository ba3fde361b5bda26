"""What a solver declares, and what is taken of one that declares nothing."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import torchopt

import phiopt
from phiopt.solve import LBFGS, NewtonCG, TorchOpt
from phiopt.solve.solver import draws_afresh, needs_hessian, takes_steps
from tests.cases import generator, mlp, randn

MODELS = mlp(4, 3, 2), mlp(4, 5, 2)
DATA = randn(40, 4, seed=3), torch.randint(2, (40,), generator=generator(4))
QUICK = TorchOpt(torchopt.sgd(0.05), steps=3, batch_size=8)


class Plain:
    """No more than every solver must have."""

    batch_size = 8

    def solve(self, objective, start, *, seed, progress):
        return QUICK.solve(objective, start, seed=seed, progress=progress)


class Curved(Plain):
    needs_hessian = True


class Fresh(Plain):
    fresh = True


@dataclass(frozen=True)
class Steps(Plain):
    """Steps of an optimiser, by a solver of a user's own."""

    optimizer: object = None
    steps: int = 3
    batch_size: int = 8

    def solve(self, objective, start, *, seed, progress):
        solver = TorchOpt(self.optimizer, steps=self.steps, batch_size=self.batch_size)
        return solver.solve(objective, start, seed=seed, progress=progress)


class Closed(Plain):
    """Has the members of a solver that takes steps, but is no dataclass: its optimiser cannot be replaced."""

    optimizer, steps = None, 3


@pytest.mark.parametrize(
    ("solver", "steps", "fresh", "hessian"),
    [
        (TorchOpt(), True, True, False),
        (TorchOpt(fresh=False), True, False, False),
        (LBFGS(), False, False, False),
        (NewtonCG(), False, False, True),
        (Plain(), False, False, False),
        (Curved(), False, False, True),
        (Fresh(), False, True, False),
        (Steps(), True, False, False),
        (Closed(), False, False, False),
    ],
)
def test_what_a_solver_declares(solver, steps, fresh, hessian):
    assert takes_steps(solver) is steps
    assert draws_afresh(solver) is fresh
    assert needs_hessian(solver) is hessian


def test_a_solver_that_declares_nothing_has_the_defaults():
    solution = phiopt.initialize(*MODELS, (0.5, 0.5, 0, 0), DATA, solver=Plain())
    expected = phiopt.initialize(*MODELS, (0.5, 0.5, 0, 0), DATA, solver=QUICK)
    assert all(torch.equal(solution.params[name], p) for name, p in expected.params.items())
    with pytest.raises(TypeError, match="Plain has no optimizer"):
        phiopt.initialize(*MODELS, (0.5, 0.5, 0, 0), DATA, solver=Plain(), adjoint=phiopt.Replay())


def test_an_adjoint_goes_back_by_the_steps_of_a_users_solver():
    point = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64, requires_grad=True)

    def derivative(solver):
        solution = phiopt.initialize(*MODELS, point, DATA, solver=solver, adjoint=phiopt.Replay())
        return torch.autograd.grad(solution.params["0.weight"].sum(), point)[0]

    optimizer = torchopt.sgd(0.05)
    torch.testing.assert_close(
        derivative(Steps(optimizer)), derivative(TorchOpt(optimizer, steps=3, batch_size=8))
    )


def test_a_solver_that_draws_afresh_has_no_implicit_derivative():
    with pytest.raises(ValueError, match="solver draws a new sample at each step"):
        phiopt.initialize(
            *MODELS, (0.5, 0.5, 0, 0), DATA, solver=Fresh(), adjoint=phiopt.Implicit()
        )


def test_a_solver_that_needs_second_derivatives_is_refused_where_there_are_none():
    def hinges(outputs, targets):
        return F.multi_margin_loss(outputs, targets, reduction="none")

    options = {"loss": hinges, "throw": False}
    phiopt.initialize(*MODELS, (0.5, 0.5, 0, 0), DATA, solver=Plain(), **options)
    with pytest.raises(TypeError, match="solver: Curved needs second derivatives"):
        phiopt.initialize(*MODELS, (0.5, 0.5, 0, 0), DATA, solver=Curved(), **options)
