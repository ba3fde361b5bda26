"""Three learning rates of one student: one after the other, as the experiments train them on a CPU, or as one
`torch.func` ensemble with stacked parameters, as they do on a GPU.

python -m pytest benchmarks/test_ensemble.py --benchmark-json=ensemble.json -s

The networks of `--scale quick`, batches of 128 random images; on the GPU where there is one.
"""

import copy

import pytest
import torch
from torch import nn

from benchmarks.conftest import interleaved
from experiments.ensemble import Ensemble, Loop
from experiments.models import built
from experiments.scales import FASHION, NETWORKS, RATES, SCALES
from experiments.train import CROSS_ENTROPY

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS, ROUNDS = 20, 5


def trained(kind, model, batches):
    """`Loop` or `Ensemble` after these batches."""
    students = kind(model, RATES)
    for batch in batches:
        students.step(CROSS_ENTROPY, batch)
    return students


@pytest.mark.parametrize("network", NETWORKS)
def test_the_ensemble_agrees_and_its_time(network, benchmark):
    model: nn.Module = built(lambda: SCALES["quick"].student.build(network, FASHION), 0).to(DEVICE)
    shape = (128, FASHION.channels, FASHION.size, FASHION.size)
    torch.manual_seed(0)
    batches = [
        (torch.rand(shape, device=DEVICE), torch.randint(10, (128,), device=DEVICE))
        for _ in range(STEPS)
    ]
    # In float32 rounding differs with the memory format, and Adam's first steps make it large.
    exact = copy.deepcopy(model).double()
    few = [(x.double(), y) for x, y in batches[:5]]
    loop, ensemble = (trained(kind, exact, few) for kind in (Loop, Ensemble))
    for row in range(len(RATES)):
        expected, actual = (students.student(row).state_dict() for students in (loop, ensemble))
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value)
    seconds = interleaved(
        {
            "one by one": lambda: trained(Loop, model, batches),
            "together": lambda: trained(Ensemble, model, batches),
        },
        ROUNDS,
    )
    ratio = seconds["one by one"] / seconds["together"]
    benchmark.extra_info["one by one / together"] = ratio
    print(f"\n{network}: one by one / together {ratio:.2f}")
    benchmark.pedantic(lambda: trained(Ensemble, model, batches), rounds=1)
