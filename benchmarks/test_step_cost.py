"""A step of a solve in plain gradients of the same batch, and what the solver adds to the step's own arithmetic.

OMP_NUM_THREADS=1 python -m pytest benchmarks/test_step_cost.py -s --benchmark-json=steps.json

One solve with the default optimiser: a vector of one for the loop, without `vmap`. A long solve less a short one is
steps alone, for what a solve does once cancels out. "By hand" are the same steps written out: a sample, its gradient,
the optimiser's update. Processor seconds, the calls in turn.
"""

from dataclasses import replace
from time import process_time

import pytest
import torch
import torchopt
from torch import nn

from benchmarks.conftest import interleaved
from benchmarks.test_gradient_cost import BATCH, cnn, mlp, plain_gradient, setting
from phiopt.objective import Lambdas, Stream
from phiopt.solve import TorchOpt

SHORT, LONG, ROUNDS = 2, 12, 7
# The most that a step may cost, in steps by hand. The loop's own work shows on a net whose steps take milliseconds.
CASES = {
    "cnn, four terms": (cnn, Lambdas(0.25, 0.25, 0.25, 0.25), 1.03),
    "cnn, without curvature": (cnn, Lambdas(0.4, 0.3, 0.3, 0), 1.03),
    "mlp, four terms": (lambda: mlp(64), Lambdas(0.25, 0.25, 0.25, 0.25), 1.1),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_one_solve(benchmark, name):
    make, lambdas, limit = CASES[name]
    net: nn.Module = make()
    objective, start, sample = setting(net)
    objective = replace(objective, lambdas=lambdas)

    def solve(steps: int):
        return TorchOpt(steps=steps, batch_size=BATCH, check_every=10**6).solve(objective, start)

    def by_hand():
        optimizer = TorchOpt(steps=LONG).transformation(objective.interval)
        params, state = start, optimizer.init(start)
        for step in range(LONG - SHORT):
            drawn = objective.sample(start, BATCH, 0, Stream.STEP, step)
            _, _, gradient = objective.value_and_grad(params, drawn)
            updates, state = optimizer.update(gradient, state, params=params, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)

    def plain():
        for _ in range(LONG - SHORT):
            gradient()

    gradient = plain_gradient(net, sample)
    calls = {
        "plain": plain,
        "short": lambda: solve(SHORT),
        "by hand": torch.no_grad()(by_hand),
        "long": lambda: solve(LONG),
    }
    seconds = interleaved(calls, ROUNDS, clock=process_time)
    step = seconds["long"] - seconds["short"]
    ratios = {"plain": step / seconds["plain"], "by hand": step / seconds["by hand"]}
    benchmark.extra_info |= {"ratios": ratios, "seconds": seconds, "limit": limit}
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\n{name}: a step is {ratios['plain']:.2f} plain gradients", end=", ")
    print(f"{ratios['by hand']:.3f} of the same by hand (limit {limit})")
    assert ratios["by hand"] <= limit
