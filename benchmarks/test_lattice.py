"""Points of a lattice of λ per second: all at once against one at a time.

python -m pytest benchmarks/test_lattice.py -s --benchmark-json=lattice.json

The demo's teacher and student on digits, untrained, eight points with all four terms and eight
without the curvature, ten steps each. Runs on CUDA where there is a device, two seeds at once.
"""

from dataclasses import replace

import pytest
import torch
import torchopt

import phiopt
from benchmarks.conftest import interleaved
from experiments.demo import TASK
from experiments.models import built
from phiopt.pose import pose
from phiopt.solve import TorchOpt, solve_many

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SOLVER = TorchOpt(torchopt.adam(1e-3), steps=10, batch_size=64)
CENTRE = phiopt.Lambdas(0.25, 0.25, 0.25, 0.25)
COUNT = 8


def posed(seed):
    splits = TASK.splits(seed).to(DEVICE)
    taught = TASK.taught(seed, splits).train
    teacher, student = (built(make, seed).to(DEVICE) for make in (TASK.teacher, TASK.student))
    return pose(
        teacher,
        student,
        CENTRE,
        (taught.x, taught.y),
        classes=TASK.classes,
        neighbourhood=TASK.phi.neighbourhood,
        restrict_classes=True,
        batch_size=SOLVER.batch_size,
        seed=seed,
    )


def points(curvature):
    torch.manual_seed(0)
    lambdas = torch.rand(COUNT, 4, dtype=torch.float64) + 0.1
    lambdas[:, 3] *= curvature
    return lambdas / lambdas.sum(1, keepdim=True)


@pytest.mark.parametrize("curvature", [True, False], ids=["four terms", "three terms"])
def test_many_points_at_once_are_not_slower_than_one_at_a_time(benchmark, curvature):
    problems = [posed(seed) for seed in range(1 if DEVICE.type == "cpu" else 2)]
    lambdas = points(curvature)

    def together():
        solve_many(SOLVER, problems, lambdas)

    def singly():
        for each in problems:
            for point in lambdas:
                weights = phiopt.Lambdas.of(point.tolist())
                objective = replace(each.objective, lambdas=weights)
                SOLVER.solve(objective, each.start, seed=each.seed)

    seconds = interleaved({"together": together, "alone": singly}, rounds=3)
    solves = len(problems) * COUNT
    rates = {name: solves / value for name, value in seconds.items()}
    benchmark.extra_info |= {"points per second": rates, "device": str(DEVICE)}
    ratio = rates["together"] / rates["alone"]
    shown = ", ".join(f"{name} {rate:.2f} points/s" for name, rate in rates.items())
    print(f"\n{'four' if curvature else 'three'} terms, {DEVICE}: {shown}, ratio {ratio:.1f}")
    benchmark.pedantic(together, rounds=1)
    assert ratio > 1
