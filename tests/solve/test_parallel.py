"""Two processes on this machine, over gloo, against one."""

from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torchopt

from phiopt.initialize import initialize
from phiopt.objective import Frobenius, Spectral, Stream, Uniform
from phiopt.solve import LBFGS, NewtonCG, TorchOpt, data_parallel
from phiopt.solve.parallel import check_agreement
from phiopt.solve.solver import Counted
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
    found = initialize(
        mlp(4, 3, 2, seed=1),
        mlp(4, 5, 3, seed=2),
        (0.25, 0.25, 0.25, 0.25),
        (X, Y),
        neighbourhood=Uniform(0.2, samples=2),
        process_group=group,
        throw=False,
        **PROBLEMS[name],
    )
    return {**found.params, "gradient": torch.tensor(found.certificate.gradient_norm)}


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
        check_agreement(group, {"x": torch.ones(3), "the start's w": torch.tensor([1.0, rank])})
    except ValueError as error:
        return str(error)
    return ""


def joined(rank, folder, size):
    """The group of all processes."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    torch.set_num_threads(1)
    return dist.group.WORLD


def work(rank, folder):
    group = joined(rank, folder, PROCESSES)
    found = {name: solve(name, group) for name in PROBLEMS}
    found |= {"derivatives": derivatives(group), "forward mode": forward_mode(group)}
    torch.save({**found, "error": disagreement(rank, group)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    mp.spawn(work, args=(str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", PROBLEMS)
def test_two_processes_find_what_one_finds(found, name):
    alone = solve(name)
    for rank in range(PROCESSES):
        torch.testing.assert_close(found[rank][name], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PROBLEMS)
def test_both_hold_the_same_bits(found, name):
    first, second = (found[rank][name] for rank in range(PROCESSES))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_derivatives_are_those_of_the_whole_batch(found):
    torch.testing.assert_close(found[0]["derivatives"], derivatives())
    torch.testing.assert_close(found[1]["derivatives"], derivatives())


def test_forward_mode_and_vmap_go_through(found):
    torch.testing.assert_close(found[0]["forward mode"], forward_mode())


def test_processes_that_disagree_are_refused_everywhere(found):
    for rank in range(PROCESSES):
        assert "process_group: the start's w differs between the processes" in found[rank]["error"]


def work_of_one_in_four(rank, folder):
    torch.save(solve("default", joined(rank, folder, 4)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_four_processes_find_what_one_finds(tmp_path):
    mp.spawn(work_of_one_in_four, args=(str(tmp_path),), nprocs=4)
    alone = solve("default")
    for rank in range(4):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-9)
