"""One vector instead of many tensors: the same updates, under vmap and for derivatives too."""

import pytest
import torch
import torchopt
from torch.func import vmap

from phiopt.solve.flat import flattened
from phiopt.solve.normalise import normalised
from tests.cases import mlp, parameters, randn

PARAMS = parameters(mlp(4, 5, 3))
NOISE = {n: randn(3, *p.shape) for n, p in PARAMS.items()}


def moved(optimizer, scale=1.0, steps=3):
    params = {n: scale * p for n, p in PARAMS.items()}
    state = optimizer.init(params)
    for step in range(steps):
        g = {n: NOISE[n][step] + p for n, p in params.items()}
        updates, state = optimizer.update(g, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    return params


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_updates_are_those_of_the_tensors_one_by_one():
    plain = normalised(torchopt.adam(1e-2, eps_root=1e-8))
    torch.testing.assert_close(moved(flattened(plain)), moved(plain))
    scales = torch.tensor([0.5, 2.0], dtype=torch.float64)
    many = vmap(lambda s: moved(flattened(plain), s))(scales)
    for i, scale in enumerate(scales):
        one = {n: v[i] for n, v in many.items()}
        torch.testing.assert_close(one, moved(plain, scale))

    def reached(optimizer):
        return torch.func.grad(lambda s: moved(optimizer, s)["0.weight"].sum())(scales[0])

    torch.testing.assert_close(reached(flattened(plain)), reached(plain))


def test_the_state_is_of_one_tensor():
    state = flattened(torchopt.adam(1e-2)).init(PARAMS)
    sizes = {t.numel() for t in torchopt.pytree.tree_leaves(state) if isinstance(t, torch.Tensor)}
    assert sum(p.numel() for p in PARAMS.values()) in sizes
