"""A solve that is interrupted or killed goes on from its checkpoint to the bits of one that is not."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict

import pytest
import torch
import torchopt
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import phiopt
from phiopt.objective import Objective
from phiopt.solve import Status, TorchOpt, checkpoint, saved_state
from phiopt.solve.loop import Loop
from phiopt.solve.solves import OneSolve
from tests.cases import mlp
from tests.solutions import QUARTERS, X, Y, solved

SOLVER = TorchOpt(steps=12, batch_size=16, check_every=5)


class Noisy(Dataset):
    """Examples that are moved by noise from the global generator, so that no example is the same twice."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index] + 0.01 * torch.randn(4), int(Y[index])


def loader(**options):
    return DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True, **options)


def interrupted(monkeypatch, owner, name, number, path, **options):
    """A solve in whose steps the ``number``-th call of a function of ``owner`` is interrupted."""
    calls, plain, begun, of = [], getattr(owner, name), [], checkpoint.Checkpoint.of

    def at_call(*given, **named):
        calls.extend(begun)
        if len(calls) == number:
            raise KeyboardInterrupt
        return plain(*given, **named)

    def counted_from_here(self, loop):
        begun.append(1)
        return of(self, loop)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, at_call)
        patch.setattr(checkpoint.Checkpoint, "of", counted_from_here)
        solution = solved(**options | {"checkpoint": path, "throw": False})
    assert solution.status is Status.INTERRUPTED
    return solution


@contextmanager
def raising(monkeypatch, number, error):
    """Inside this context the ``number``-th update of a solve raises."""
    plain, calls = OneSolve.update, []

    def update(self, *given):
        calls.append(1)
        if len(calls) == number:
            raise error
        return plain(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(OneSolve, "update", update)
        yield


def check_same(first, second):
    for name, value in first.params.items():
        assert torch.equal(second.params[name], value), name
    for name in ("status", "objective", "terms", "start_terms", "history", "certificate"):
        # As text, in which NaN is NaN.
        assert repr(getattr(first, name)) == repr(getattr(second, name)), name
    assert asdict(first.stats) | {"seconds": 0} == asdict(second.stats) | {"seconds": 0}


PLACES = [
    (Objective, "value_and_grad", 7),
    (OneSolve, "update", 6),
    (OneSolve, "draw", 8),
    (OneSolve, "validate", 1),
    (Loop, "_consider", 1),
    (saved_state, "_packed", 300),  # within a writing after a step
    (saved_state, "_packed", 1330),  # within the last one
]


@pytest.mark.parametrize(("owner", "name", "number"), PLACES)
def test_wherever_the_interrupt_comes(monkeypatch, tmp_path, owner, name, number):
    monkeypatch.setattr(checkpoint, "PAUSE", 0.0)  # it is written after each step
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    whole, path = solved(solver=SOLVER), tmp_path / "state"
    best = interrupted(monkeypatch, owner, name, number, path, solver=SOLVER)
    assert 0 < len(best.history) <= 12
    assert "resume=PATH" in str(best)
    check_same(whole, solved(solver=SOLVER, resume=path))


KINDS = {
    "momentum": {"solver": TorchOpt(torchopt.sgd(0.05, momentum=0.9), 12, 16, check_every=5)},
    "a count": {"solver": TorchOpt(torchopt.radam(1e-2), 12, 16, check_every=5)},
    "a schedule": {"solver": TorchOpt(torchopt.adam(torchopt.schedule.linear_schedule(1e-2, 0, 9)), 12)},
    "frozen": {"solver": TorchOpt(steps=12, fresh=False), "lambdas": (0.5, 0.5, 0, 0)},
    "tolerance": {"solver": TorchOpt(torchopt.sgd(0.1), 40, None, tol=0.6), "lambdas": (0.1, 0.9, 0, 0)},
    "a loader": {"data": loader()},
    "a loader's generator": {"data": loader(generator=torch.Generator().manual_seed(5))},
    "a random data set": {"data": Noisy()},
    "restarts": {"data": loader(), "restarts": 1},
    "parts": {"micro_batch": 8, "curvature": phiopt.Spectral(iterations=2), "certificate": None},
    "intervals": {"curvature": phiopt.Frobenius(every=3)},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_solve(monkeypatch, tmp_path, kind):
    options, path = {"solver": SOLVER, "throw": False} | KINDS[kind], tmp_path / "state"
    whole = solved(**options)
    interrupted(monkeypatch, OneSolve, "gradients", 9, path, **options)
    # Once more on the way, from the first state.
    interrupted(monkeypatch, OneSolve, "gradients", 2, path, **options, resume=path)
    check_same(whole, solved(**options, resume=path))


def test_after_a_roll_back_too(monkeypatch, tmp_path):
    plain, path = OneSolve.gradients, tmp_path / "state"

    def bad_in_step_four(self, params, draw):
        at = plain(self, params, draw)
        return at._replace(value=at.value * torch.nan) if self.objective.gradient == 4 else at

    monkeypatch.setattr(OneSolve, "gradients", bad_in_step_four)
    whole = solved(solver=SOLVER)
    assert whole.stats.rollbacks == 1
    interrupted(monkeypatch, OneSolve, "update", 8, path, solver=SOLVER)
    check_same(whole, solved(solver=SOLVER, resume=path))


def test_an_error_leaves_a_checkpoint(monkeypatch, tmp_path):
    whole, path = solved(solver=SOLVER), tmp_path / "state"
    with raising(monkeypatch, 5, MemoryError), pytest.raises(MemoryError):
        solved(solver=SOLVER, checkpoint=path)
    check_same(whole, solved(solver=SOLVER, resume=path))


def test_data_that_failed_can_be_mended(monkeypatch, tmp_path):
    whole, path = solved(solver=SOLVER, data=loader()), tmp_path / "state"
    calls, plain = [], OneSolve.draw

    def failing(self, step):
        calls.append(1)
        if len(calls) == 8:
            raise OSError("the server is away")
        return plain(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(OneSolve, "draw", failing)
        options = {"solver": SOLVER, "data": loader(), "throw": False}
        assert solved(**options, checkpoint=path).status is Status.DATA_FAILED
    check_same(whole, solved(solver=SOLVER, data=loader(), resume=path))


def test_a_finished_solve_takes_no_steps(monkeypatch, tmp_path):
    path = tmp_path / "state"
    whole = solved(solver=SOLVER, checkpoint=path)
    monkeypatch.setattr(OneSolve, "gradients", None)
    check_same(whole, solved(solver=SOLVER, resume=path))


def test_other_data_of_the_same_description_are_noticed(monkeypatch, tmp_path):
    class Moving(Noisy):
        shift = 0.0

        def __repr__(self):
            return "Moving"

        def __getitem__(self, index):
            return X[index] + Moving.shift, int(Y[index])

    path, data = tmp_path / "state", Moving()
    options = {"solver": SOLVER, "lambdas": (0.3, 0.7, 0, 0), "scale": "paper"}
    interrupted(monkeypatch, OneSolve, "update", 6, path, data=data, **options)
    Moving.shift = 1.0
    monkeypatch.setattr(checkpoint, "_check_start", lambda *_: None)  # it would notice too
    with pytest.raises(ValueError, match=r"another batch in step 5: the data are not the same"):
        solved(data=data, resume=path, **options)


def test_a_changed_function_is_noticed(monkeypatch, tmp_path):
    path = tmp_path / "state"
    interrupted(monkeypatch, OneSolve, "update", 6, path, solver=SOLVER)
    plain = OneSolve.validate
    monkeypatch.setattr(OneSolve, "validate", lambda *given: plain(*given)._replace(values=[1.0]))
    with pytest.raises(ValueError, match=r"objective at the start was .* but here it is 1.0"):
        solved(solver=SOLVER, resume=path)


def test_a_full_disk_does_not_end_the_solve(monkeypatch, tmp_path):
    whole, path, plain, calls = solved(solver=SOLVER), tmp_path / "state", checkpoint.write, []

    def full(*given):
        calls.append(1)
        if len(calls) == 3:
            raise OSError("no space left on device")
        plain(*given)

    monkeypatch.setattr(checkpoint, "PAUSE", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.warns(UserWarning, match=r"checkpoint: .*state was not written: no space left"):
        check_same(whole, solved(solver=SOLVER, checkpoint=path))
    check_same(whole, solved(solver=SOLVER, resume=path))


def test_the_file_is_written_at_intervals(monkeypatch, tmp_path):
    calls, plain = [], checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *given: (calls.append(1), plain(*given)))
    solved(solver=SOLVER, checkpoint=tmp_path / "state")
    assert len(calls) == 2  # at the beginning and at the end


def test_a_state_that_no_file_can_hold_is_refused(tmp_path):
    plain = torchopt.sgd(0.1)
    odd = torchopt.base.GradientTransformation(
        lambda params: (plain.init(params), object()),
        lambda g, state, **rest: (plain.update(g, state[0], **rest)[0], state),
    )
    path = tmp_path / "state"
    with pytest.raises(TypeError, match=r"checkpoint: must be None.*holds a object"):
        solved(solver=TorchOpt(odd, steps=3), checkpoint=path)
    growing = torchopt.base.GradientTransformation(
        lambda params: (),
        lambda g, state, **rest: (plain.update(g, plain.init(g), **rest)[0], (*state, 1)),
    )
    with pytest.raises(TypeError, match=r"checkpoint: must be None.*changes its structure"):
        solved(solver=TorchOpt(growing, steps=3), checkpoint=path)


def test_the_layout_of_a_kernel_is_kept(tmp_path):
    kernel = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    tree = {"kernel": kernel, "wide": torch.ones(()).expand(3), "odd": [torch.nan, None, "a"]}
    saved_state.write(tmp_path / "state", {"a": "b"}, tree)
    back = saved_state.read(tmp_path / "state").tree
    assert torch.equal(back["kernel"], kernel)
    assert back["kernel"].stride() == kernel.stride()
    assert torch.equal(back["wide"], torch.ones(3))
    assert str(back["odd"]) == "[nan, None, 'a']"


def killed_in_step(number, path):
    """For another process: a solve that kills its process in this step."""
    plain, calls = OneSolve.update, []

    def update(self, *given):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, *given)

    OneSolve.update = update
    checkpoint.PAUSE, checkpoint.SHARE = 0.0, 1e9
    solved(solver=SOLVER, checkpoint=path)


def test_a_killed_process(tmp_path):
    path = tmp_path / "state"
    program = f"from tests.solve.test_checkpoint import killed_in_step as k; k(8, {str(path)!r})"
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert saved_state.read(path).tree["step"] == 7
    check_same(solved(solver=SOLVER), solved(solver=SOLVER, resume=path))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_posed_problem_of_any_precision(monkeypatch, tmp_path, dtype):
    small, large = (mlp(4, width, classes, seed=1).to(dtype) for width, classes in ((3, 2), (5, 3)))
    problem, path = phiopt.pose(small, large, QUARTERS, (X.to(dtype), Y)), tmp_path / "state"
    options = {"solver": SOLVER, "throw": False, "certificate": None, "seed": 3}
    point = (0.5, 0.3, 0.1, 0.1)
    start = {name: value + 0.01 for name, value in problem.start.items()}
    with raising(monkeypatch, 6, KeyboardInterrupt):
        problem.solve(point, start=start, delta=0.2, checkpoint=path, **options)
    resumed = problem.solve(point, start=start, delta=0.2, resume=path, **options)
    check_same(problem.solve(point, start=start, delta=0.2, **options), resumed)
    assert isinstance(large, nn.Module)
