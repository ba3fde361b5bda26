"""Memory and time of φ's solvers against the number of parameters, 1e5 to 5e7; prints a table.

python -m benchmarks.scale [--sizes 1e5 1e6 ...]

Each line is of a process of its own: seconds of a solve of three steps, and the peak of the
resident memory above what PyTorch itself takes, in copies of the parameters. All four terms, batches
of 4 examples, so that parameters and not activations fill the memory. L-BFGS, which keeps ten pairs
of vectors in float64, goes to 1e7 parameters.
"""

import argparse
import resource
import subprocess
import sys
from math import isqrt
from time import perf_counter

import torch
import torchopt
from torch import nn

from phiopt.data import Data
from phiopt.objective import Lambdas, Objective, Uniform, paper_objective, pure_model, student_loss
from phiopt.solve import LBFGS, TorchOpt

SIZES = [100_000, 1_000_000, 10_000_000, 50_000_000]
LARGEST_LBFGS = 10_000_000
STEPS = 3
FEATURES = 64


def mlp(parameters: int) -> nn.Module:
    """Two hidden layers whose width gives about this many parameters."""
    width = isqrt(parameters)
    return nn.Sequential(
        nn.Linear(FEATURES, width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, 10),
    )


def problem(parameters: int) -> tuple[Objective, dict[str, torch.Tensor]]:
    """A student whose teacher is itself, and its parameters."""
    torch.manual_seed(0)
    module = mlp(parameters).requires_grad_(False)
    params = dict(module.named_parameters())
    inputs, targets = torch.rand(64, FEATURES), torch.randint(10, (64,))
    objective = paper_objective(
        model=pure_model(module, lambda x: x),
        teacher=params,
        extract=dict,
        loss=student_loss(None, torch.arange(10), 1, restrict=False),
        lambdas=Lambdas(0.25, 0.25, 0.25, 0.25),
        data=Data((inputs, targets), torch.device("cpu"), torch.float32),
        neighbourhood=Uniform(0.1),
    )
    return objective, params


def solvers() -> dict[str, TorchOpt | LBFGS]:
    adam = torchopt.adam(1e-6)
    return {
        "TorchOpt": TorchOpt(steps=STEPS, batch_size=4),
        "TorchOpt, given Adam": TorchOpt(adam, steps=STEPS, batch_size=4),
        "LBFGS": LBFGS(steps=STEPS, batch_size=4, draws=2, tol=1e-9),
    }


def peak() -> int:
    """Bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(name: str, parameters: int) -> tuple[int, float, float]:
    """Parameters, seconds, and peak memory in copies of the parameters."""
    warm, start = problem(1000)
    solvers()[name].solve(warm, start)
    before = peak()
    objective, params = problem(parameters)
    count = sum(p.numel() for p in params.values())
    began = perf_counter()
    solvers()[name].solve(objective, params)
    seconds = perf_counter() - began
    return count, seconds, (peak() - before) / (4 * count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="*", default=SIZES)
    parser.add_argument("--one", nargs=2, metavar=("SOLVER", "PARAMETERS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, parameters = arguments.one
        print(*measure(name, int(parameters)))
        return
    print("| solver | parameters | seconds | ns a parameter | copies at the peak |")
    print("| --- | --- | --- | --- | --- |")
    for name in solvers():
        for size in arguments.sizes:
            if name == "LBFGS" and size > LARGEST_LBFGS:
                continue
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale", "--one", name]
            line = subprocess.check_output([*command, str(int(size))], text=True)
            count, seconds, copies = map(float, line.split())
            each = f"{1e9 * seconds / count:.0f}"
            print(f"| {name} | {count:.2e} | {seconds:.2g} | {each} | {copies:.0f} |", flush=True)


if __name__ == "__main__":
    main()
