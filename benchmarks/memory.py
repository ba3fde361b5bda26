"""What `initialize(micro_batch=...)` saves: the peak of a whole solve's memory; prints a table.

python -m benchmarks.memory [--batch 256] [--micro 128 32 8]

Each line is of a process of its own: the peak of the resident memory above what the models, the data
and PyTorch itself take, and seconds, of four steps of all four terms on the CNN of
benchmarks/test_gradient_cost.py with the judges, the references of the relative scale and the
certificate around them. The curvature of the whole batch, `Frobenius(batch=None)`.
"""

import argparse
import subprocess
import sys
from time import perf_counter

import torch

import phiopt
from benchmarks.scale import peak
from benchmarks.test_gradient_cost import cnn


def measure(batch: int, micro_batch: int | None) -> tuple[float, float]:
    """Peak in MiB, and seconds."""
    torch.manual_seed(0)
    teacher, student = cnn(), cnn()
    data = torch.rand(2 * batch, 1, 28, 28), torch.randint(10, (2 * batch,))

    def solve(size: int, steps: int, micro_batch: int | None) -> None:
        phiopt.initialize(
            teacher,
            student,
            (0.25, 0.25, 0.25, 0.25),
            data,
            curvature=phiopt.Frobenius(batch=None),
            solver=phiopt.TorchOpt(steps=steps, batch_size=size),
            micro_batch=micro_batch,
        )

    solve(2, 1, None)
    before, began = peak(), perf_counter()
    solve(batch, 4, micro_batch)
    return (peak() - before) / 2**20, perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--micro", type=int, nargs="*", default=[128, 32, 8])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one is not None:
        print(*measure(chosen.batch, chosen.one or None))
        return
    print("| micro_batch | peak, MiB | seconds |\n| --- | --- | --- |")
    for micro in (0, *chosen.micro):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", "--one", str(micro)]
        line = subprocess.check_output([*command, "--batch", str(chosen.batch)], text=True)
        mebibytes, seconds = map(float, line.split())
        print(f"| {micro or 'None'} | {mebibytes:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
