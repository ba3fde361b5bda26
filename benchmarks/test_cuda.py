"""The four-term step on a GPU, in plain eager steps of the same batch: eager, compiled, captured.

python -m pytest benchmarks/test_cuda.py -s --benchmark-json=cuda.json

Skipped without a CUDA device. Neither the library nor its documents have a figure from one yet.
"""

from dataclasses import replace

import pytest
import torch

from benchmarks.conftest import interleaved
from benchmarks.test_gradient_cost import cnn, mlp, plain_gradient, setting
from phiopt.data import Data
from phiopt.objective import CurvatureTerm, Frobenius, Objective, Stream

NETS = {"cnn": cnn, "mlp 2048": lambda: mlp(2048)}
CURVATURES = {"exact": Frobenius(batch=None), "default": Frobenius()}
MODES = {"compiled": "default", "captured": "reduce-overhead"}
"""Of ``torch.compile``; the second captures CUDA graphs. The exact step alone: the default one it
does not take (see docs/cost.md)."""


def moved(objective: Objective, device: torch.device) -> Objective:
    assert objective.data is not None
    data = Data(objective.data.batch(None, torch.Generator()), device, torch.float32)
    tensors = {name: value.to(device) for name, value in objective.tensors().items()}
    return replace(objective, data=data).with_tensors(tensors)


def calls(net: str, curvature: str, device: torch.device):
    """A plain gradient, and the four-term one in each of the modes."""
    module = NETS[net]().to(device)
    base, params, _ = setting(module)
    objective = moved(base, device).with_term(CurvatureTerm(CURVATURES[curvature]))
    sample = objective.sample(params, None, 0, Stream.STEP, 0)

    step = objective.value_and_grad
    modes = MODES if curvature == "exact" else {}
    made = {"eager": step} | {n: torch.compile(step, mode=mode) for n, mode in modes.items()}

    def without_grad(call):
        with torch.no_grad():
            return call(params, sample)

    phi = {name: lambda call=call: without_grad(call) for name, call in made.items()}
    return {"plain": plain_gradient(module, sample)} | phi


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("net", NETS)
def test_four_terms_on_a_gpu(benchmark, net, curvature):
    ours = calls(net, curvature, torch.device("cuda"))
    reference = {n: g.clone() for n, g in ours["eager"]()[2].items()}
    for name in ours.keys() & MODES.keys():
        for n, g in ours[name]()[2].items():
            scale = float(reference[n].abs().max())
            torch.testing.assert_close(g, reference[n], rtol=1e-3, atol=1e-4 * scale)
    seconds = interleaved(ours, rounds=30)
    ratios = {name: s / seconds["plain"] for name, s in seconds.items()}
    benchmark.extra_info |= ratios | {"device": torch.cuda.get_device_name()}
    benchmark.pedantic(ours["eager"], rounds=3)
    print(f"\n{torch.cuda.get_device_name()}, {net}, {curvature}: {ratios}")
    assert ratios["eager"] < 15
