"""Two processes on this machine, over gloo, against one."""

from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torchopt
from torch.utils.data import Dataset

from phiopt.distributed import check_replicas, data_parallel
from phiopt.distributed.replicas import fingerprint
from phiopt.initialize import initialize
from phiopt.objective import Frobenius, Spectral, Stream, Uniform
from phiopt.solve import LBFGS, NewtonCG, TorchOpt
from phiopt.solve.counted import Counted
from phiopt.solve.spectrum import MeanHessian
from tests.cases import classification, flatten, generator, mlp, randn

PROCESSES = 2
# An odd number: uneven shares; and enough of them for a step to choose examples.
X, Y = randn(41, 4, seed=3), torch.randint(2, (41,), generator=generator(4))
PROBLEMS = {
    "default": {"solver": TorchOpt(steps=4, batch_size=37)},
    "stochastic": {"solver": TorchOpt(torchopt.adam(5e-3), steps=6, batch_size=15)},
    "frozen": {"solver": LBFGS(draws=2, steps=3), "curvature": Frobenius(probes=2)},
    "newton": {"solver": NewtonCG(draws=1, steps=2)},
    "spectral": {"solver": TorchOpt(steps=2), "curvature": Spectral(iterations=2)},
    "fewer examples than processes": {"solver": TorchOpt(steps=2, batch_size=1)},
}


def solve(name, group=None):
    outcomes = initialize(
        mlp(4, 3, 2, seed=1),
        mlp(4, 5, 3, seed=2),
        (0.25, 0.25, 0.25, 0.25),
        (X, Y),
        neighbourhood=Uniform(0.2, samples=2),
        process_group=group,
        throw=False,
        **PROBLEMS[name],
    )
    return {**outcomes.params, "gradient": torch.tensor(outcomes.certificate.gradient_norm)}


def derivatives(group=None):
    """Value, gradient and a Hessian-vector product of the whole objective."""
    objective, params = classification(count=21)
    model = objective.model if group is None else data_parallel(objective.model, group)
    objective = replace(objective, model=model)
    sample = objective.sample(params, None, 0, Stream.TRAIN, 0)
    value, _, gradient = objective.value_and_grad(params, sample)
    product = MeanHessian(Counted(objective), params, [sample])(gradient)
    return {"value": value, "gradient": flatten(gradient), "hvp": flatten(product)}


def forward_mode(group=None):
    """Forward over reverse, and vmap over probes, which estimators may use."""
    objective, params = classification(count=21)
    model = objective.model if group is None else data_parallel(objective.model, group)
    x = objective.data.example[0]
    gradient = torch.func.grad(lambda w: model(w, x).square().sum())
    probes = {k: torch.stack([v, 2 * v.square()]) for k, v in params.items()}
    products = torch.func.vmap(lambda v: torch.func.jvp(gradient, (params,), (v,))[1])(probes)
    return {"products": torch.cat([p.flatten(1) for p in products.values()], 1)}


def disagreement(rank, group):
    try:
        values = {"x": torch.ones(3), "the start's w": torch.tensor([1.0, rank])}
        check_replicas(group, values, torch.device("cpu"))
    except ValueError as error:
        return str(error)
    return ""


class Broken(Dataset):
    """Raises in one process, or reads other pixels there, after so many reads."""

    def __init__(self, rank, kind, length=41, after=400):
        self.there, self.kind, self.length, self.reads = rank == 1, kind, length, 0
        self.after = after

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        self.reads += 1
        if self.there and self.reads > self.after:
            if self.kind == "raises":
                raise OSError("gone")
            return X[i] + 1, Y[i]
        return X[i], Y[i]


def fitted(group, data, lambdas=(0.25, 0.25, 0.25, 0.25), delta=0.1, steps=60, loss=None):
    return initialize(
        mlp(4, 3, 2, seed=1),
        mlp(4, 5, 3, seed=2),
        lambdas,
        data,
        neighbourhood=Uniform(delta),
        solver=TorchOpt(torchopt.adam(1e-3), steps=steps, batch_size=8, check_every=5),
        loss=loss,
        scale="paper",
        process_group=group,
        throw=False,
    )


def failures(rank, group):
    """Status, error and iterate where one process fails to read."""
    outcomes = {}
    for kind in ("raises", "reads another"):
        solution = fitted(group, Broken(rank, kind))
        params = torch.cat([p.flatten() for p in solution.params.values()])
        error = f"{type(solution.error).__name__}: {solution.error}"
        better = solution.objective < solution.start_objective
        outcomes[kind] = (solution.status.name, error, better, params)
    return outcomes


def failed_first(rank, group):
    """What each process is told where one cannot even read the first examples."""
    try:
        fitted(group, Broken(rank, "raises", after=0))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def unlike(rank, group):
    """What settings that differ are told."""
    messages = {}
    settings = {
        "lambdas": {"lambdas": (0.25, 0.25, 0.25 + 0.05 * rank, 0.25 - 0.05 * rank)},
        "neighbourhood": {"delta": 0.1 + 1e-9 * rank},
        "solver": {"steps": 60 + rank},
        "data's length": {"data": Broken(0, "raises", 40 + rank)},
    }
    for name, changes in settings.items():
        try:
            fitted(group, **{"data": (X, Y)} | changes)
        except ValueError as error:
            messages[name] = str(error)
    return messages


def joined(rank, folder, size):
    """The group of all processes."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=size,
        timeout=timedelta(minutes=10),  # crowded cores may start one process long after another
    )
    torch.set_num_threads(1)
    return dist.group.WORLD


def work(rank, folder):
    group = joined(rank, folder, PROCESSES)
    outcomes = {name: solve(name, group) for name in PROBLEMS}
    outcomes |= {"derivatives": derivatives(group), "forward mode": forward_mode(group)}
    outcomes |= {"failures": failures(rank, group), "unlike": unlike(rank, group)}
    outcomes["failed first"] = failed_first(rank, group)
    torch.save({**outcomes, "error": disagreement(rank, group)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    mp.spawn(work, args=(str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_two_processes_find_what_one_finds(outcomes, name):
    alone = solve(name)
    for rank in range(PROCESSES):
        torch.testing.assert_close(outcomes[rank][name], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_both_hold_the_same_bits(outcomes, name):
    first, second = (outcomes[rank][name] for rank in range(PROCESSES))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_derivatives_are_those_of_the_whole_batch(outcomes):
    torch.testing.assert_close(outcomes[0]["derivatives"], derivatives())
    torch.testing.assert_close(outcomes[1]["derivatives"], derivatives())


@pytest.mark.slow
def test_forward_mode_and_vmap_go_through(outcomes):
    torch.testing.assert_close(outcomes[0]["forward mode"], forward_mode())


@pytest.mark.slow
def test_processes_that_disagree_are_refused_everywhere(outcomes):
    for rank in range(PROCESSES):
        assert (
            "process_group: the start's w differs between the processes" in outcomes[rank]["error"]
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raises", "reads another"])
def test_all_end_alike_where_one_fails_to_read(outcomes, kind):
    (first, error, better, ours), (second, elsewhere, _, theirs) = (
        outcomes[rank]["failures"][kind] for rank in range(PROCESSES)
    )
    assert first == second == "DATA_FAILED"
    assert better
    assert torch.equal(ours, theirs)
    if kind == "raises":
        assert error == "RuntimeError: data: reading failed in another process"
        assert elsewhere == "OSError: gone"
    else:
        assert error == elsewhere
        assert "process_group: a batch differs between the processes" in error


@pytest.mark.slow
def test_all_end_promptly_where_one_fails_before_the_solve(outcomes):
    message = "ElsewhereError: process_group: rank 1 failed with OSError: gone"
    assert [outcomes[rank]["failed first"] for rank in range(PROCESSES)] == [
        message,
        "OSError: gone",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lambdas", "neighbourhood", "solver", "data's length"])
def test_settings_that_differ_are_refused_everywhere(outcomes, name):
    for rank in range(PROCESSES):
        message = outcomes[rank]["unlike"][name]
        assert message.startswith(f"process_group: {name} differs between the processes")


def test_settings_are_told_apart_by_what_they_hold():
    def recursive():
        return recursive

    assert fingerprint(TorchOpt(torchopt.adam(1e-3))) == fingerprint(TorchOpt(torchopt.adam(1e-3)))
    assert fingerprint(TorchOpt(torchopt.adam(1e-3))) != fingerprint(TorchOpt(torchopt.adam(2e-3)))
    assert fingerprint(Uniform(torch.tensor(0.1))) != fingerprint(Uniform(torch.tensor(0.10001)))
    assert fingerprint(recursive) == fingerprint(recursive)


def work_of_one_in_four(rank, folder):
    torch.save(solve("default", joined(rank, folder, 4)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_four_processes_find_what_one_finds(tmp_path):
    mp.spawn(work_of_one_in_four, args=(str(tmp_path),), nprocs=4)
    alone = solve("default")
    for rank in range(4):
        outcomes = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(outcomes, alone, rtol=1e-9, atol=1e-9)
