"""A path by fewer iterates, from a loader's batches or in small ones: the same derivative, from less memory."""

from dataclasses import replace

import pytest
import torch
import torchopt
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.test_gradient_cost import Peak
from phiopt.bilevel import AdjointError, Implicit, Replay, Unroll, replay
from phiopt.data import Data
from phiopt.solve import LBFGS, TorchOpt
from tests.bilevel.problems import at, inputs, outer, regression
from tests.bilevel.solving import FRESH, solved
from tests.cases import CPU, randn


@pytest.mark.parametrize("adjoint", [Replay(), Unroll()], ids=str)
def test_a_loaders_own_batches_are_kept(adjoint):
    x, y = randn(48, 3, seed=3), randn(48, 2, seed=4)
    grads = []
    for source in ((x, y), DataLoader(TensorDataset(x, y), batch_size=16)):
        objective, start = regression()
        objective = replace(objective, data=Data(source, CPU, torch.float64))
        theta = inputs(objective)
        loaded = isinstance(source, DataLoader)
        moved = at(objective, theta) if loaded else _in_turn(at(objective, theta), x, y)
        solution = solved(adjoint, moved, start, replace(FRESH, steps=5)).params
        grads.append(torch.autograd.grad(outer(solution), list(theta.values())))
    torch.testing.assert_close(grads[0], grads[1])


def _in_turn(objective, x, y):
    """The batches that a loader gives after its first: eight judgements, then the steps."""

    class InTurn(Data):
        def __init__(self):
            super().__init__((x, y), CPU, torch.float64)
            self.calls = 0

        repeatable = False

        def batch(self, size, generator):
            rows = torch.arange(16) + 16 * (self.calls % 3)
            self.calls += 1
            return x[rows], y[rows]

    return replace(objective, data=InTurn())


def test_fewer_iterates_give_the_same_bits(monkeypatch):
    """And T/k + k of them are in memory at most."""
    objective, start = regression()
    alive, through = [], replay._through_step

    def watched(path, *arguments):
        alive.append(sum(bool(step.params) for step in path.steps))
        assert alive[-1] == sum(step.state is not None for step in path.steps)
        return through(path, *arguments)

    monkeypatch.setattr(replay, "_through_step", watched)

    def gradient(adjoint):
        alive.clear()
        theta = inputs(objective)
        w0 = {k: v.clone().requires_grad_() for k, v in start.items()}
        outcome = solved(adjoint, at(objective, theta), w0, FRESH)
        return torch.autograd.grad(outer(outcome.params), [*theta.values(), *w0.values()])

    expected = gradient(Replay())
    assert set(alive) == {12}
    for every in (5, 100):
        assert all(map(torch.equal, gradient(Replay(every=every)), expected))
        assert max(alive) <= -(-12 // every) + min(every, 12) - 1


@pytest.mark.parametrize("every", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_fewer_iterates_and_a_path_that_ends_early(every):
    """At a kept iterate, the sixth, or between two."""
    objective, start = regression()
    rising = torchopt.sgd(lambda step: 0.02 if int(step) < 6 else 2.0)
    solver = replace(FRESH, optimizer=rising, check_every=2)
    grads = []
    for adjoint in (Replay(), Replay(every=every)):
        theta = inputs(objective)
        solution = solved(adjoint, at(objective, theta), start, solver).params
        grads.append(torch.autograd.grad(outer(solution), list(theta.values())))
    assert all(map(torch.equal, *grads))


@pytest.mark.slow
def test_fewer_iterates_with_a_loaders_batches_and_steps_that_cannot_be_taken_again():
    x, y = randn(48, 3, seed=3), randn(48, 2, seed=4)
    grads = []
    for adjoint in (Replay(), Replay(every=2)):
        objective, start = regression()
        loader = DataLoader(TensorDataset(x, y), batch_size=16)
        objective = replace(objective, data=Data(loader, CPU, torch.float64))
        theta = inputs(objective)
        solution = solved(adjoint, at(objective, theta), start, replace(FRESH, steps=5)).params
        grads.append(torch.autograd.grad(outer(solution), list(theta.values())))
    assert all(map(torch.equal, *grads))
    objective, start = regression()
    impure = replace(FRESH, optimizer=torchopt.sgd(0.02, momentum=0.9, dampening=0.8))
    solution = solved(Replay(every=4), at(objective, inputs(objective)), start, impure).params
    with pytest.raises(AdjointError, match="taken again, ends elsewhere"):
        outer(solution).backward()


def test_bad_arguments():
    with pytest.raises(ValueError, match="every: got 0"):
        Replay(every=0)


def in_parts(adjoint, micro_batch, delta=0.3):
    """A hypergradient without the curvature, and the peak of its backward pass."""
    objective, start = regression(count=4096)
    objective = replace(objective, micro_batch=micro_batch)
    theta = {**inputs(objective), "lambdas": (0.4, 0.3, 0.3, 0.0)}
    wanted = [value for value in theta.values() if isinstance(value, torch.Tensor)]
    if isinstance(adjoint, Replay):
        solver = TorchOpt(torchopt.sgd(0.1, momentum=0.5), steps=3, batch_size=None)
    else:
        solver = LBFGS()
    lost = outer(solved(adjoint, at(objective, theta), start, solver).params)
    with Peak() as peak:
        gradients = torch.autograd.grad(lost, wanted)
    return gradients, peak.bytes


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", [Replay(), Implicit(check=False)], ids=["replay", "implicit"])
def test_small_batches_bound_the_memory_of_the_backward_pass(adjoint):
    whole, most = in_parts(adjoint, None)
    actual, peak = in_parts(adjoint, 256)
    torch.testing.assert_close(actual, whole, rtol=1e-5, atol=1e-8)
    assert peak < most / 2
