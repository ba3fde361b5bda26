import pytest
import torch

from phiopt.objective.probes import draw_probes, each
from tests.cases import generator, randn

LIKE = {"a.weight": randn(30, 40).float(), "a.bias": randn(30).float(), "b.weight": randn(5, 6)}


def test_signs_are_signs():
    probes = draw_probes(LIKE, 3, generator())["a.weight"]
    assert probes.shape == (3, 30, 40)
    assert probes.dtype == torch.float32
    assert probes.abs().eq(1).all()
    assert abs(probes.mean()) < 4 / probes.numel() ** 0.5


def test_normals_have_unit_variance():
    probes = draw_probes(LIKE, 3, generator(), "gaussian")["a.weight"]
    n = probes.numel()
    assert abs(probes.mean()) < 4 / n**0.5
    assert abs(probes.square().mean() - 1) < 4 * (2 / n) ** 0.5
    assert probes.abs().ne(1).any()


@pytest.mark.parametrize("count", [1, 3])
def test_each_probe_is_multiplied(count):
    matrix, probes = randn(4, 4), {"v": randn(count, 4, seed=1)}
    products = each(lambda p: {"v": matrix @ p["v"]}, probes)["v"]
    torch.testing.assert_close(products, probes["v"] @ matrix.T)
