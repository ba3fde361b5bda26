"""Three learning rates of one student: one after the other, as the experiments train them, or as one
`torch.func` ensemble with stacked parameters.

python -m pytest benchmarks/test_ensemble.py --benchmark-json=ensemble.json -s

The networks of `--scale quick`, batches of 128 random images; on the GPU where there is one.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from benchmarks.conftest import interleaved
from experiments.models import built
from experiments.scales import FASHION, NETWORKS, RATES, SCALES

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS, ROUNDS = 20, 5
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def one_by_one(model, batches):
    """Adam as in `experiments.train`."""
    students = []
    for rate in RATES:
        student = copy.deepcopy(model)
        optimizer = torch.optim.Adam(student.parameters(), lr=rate, fused=True)
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(student(x), y).backward()
            optimizer.step()
        students.append(student)
    return {k: v.detach() for k, v in stack_module_state(students)[0].items()}


@torch.no_grad()
def together(model, batches):
    """The same on stacked parameters, a rate for each row."""
    stacked, _ = stack_module_state([model for _ in RATES])
    params = {name: value.detach().clone() for name, value in stacked.items()}
    first = [torch.zeros_like(p) for p in params.values()]
    second = [torch.zeros_like(p) for p in params.values()]
    rates = [
        torch.tensor(RATES, device=DEVICE).view(-1, *[1] * (p.dim() - 1)) for p in params.values()
    ]

    def loss(w, x, y):
        return F.cross_entropy(functional_call(model, w, (x,)), y)

    slope = vmap(grad(loss), in_dims=(0, None, None))
    for step, (x, y) in enumerate(batches, 1):
        gradient = list(slope(params, x, y).values())
        torch._foreach_lerp_(first, gradient, 1 - BETA1)
        torch._foreach_mul_(second, BETA2)
        torch._foreach_addcmul_(second, gradient, gradient, 1 - BETA2)
        roots = torch._foreach_sqrt(second)
        torch._foreach_div_(roots, (1 - BETA2**step) ** 0.5)
        torch._foreach_add_(roots, EPS)
        moves = torch._foreach_div(first, roots)
        torch._foreach_mul_(moves, rates)
        torch._foreach_sub_(list(params.values()), torch._foreach_div(moves, 1 - BETA1**step))
    return params


# No batching rule exists for the CPU's LSTM: it falls back to a loop, and says so.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("network", NETWORKS)
def test_the_ensemble_agrees_and_its_time(network, benchmark):
    model: nn.Module = built(lambda: SCALES["quick"].student.build(network, FASHION), 0).to(DEVICE)
    shape = (128, FASHION.channels, FASHION.size, FASHION.size)
    batches = [
        (torch.rand(shape, device=DEVICE), torch.randint(10, (128,), device=DEVICE))
        for _ in range(STEPS)
    ]
    expected, found = one_by_one(model, batches), together(model, batches)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3)
    seconds = interleaved(
        {
            "one by one": lambda: one_by_one(model, batches),
            "together": lambda: together(model, batches),
        },
        ROUNDS,
    )
    ratio = seconds["one by one"] / seconds["together"]
    benchmark.extra_info["one by one / together"] = ratio
    print(f"\n{network}: one by one / together {ratio:.2f}")
    benchmark.pedantic(lambda: together(model, batches), rounds=1)
