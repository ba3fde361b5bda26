import torch

from phiopt.objective import Frobenius, Gaussian, Spectral, Stream
from phiopt.solve.counted import Counted
from tests.cases import classification


def counts(counted):
    return counted.gradient, counted.forward, counted.hvp


def test_work_is_counted_by_kind():
    objective, params = classification(
        (0.25, 0.25, 0.25, 0.25), neighbourhood=Gaussian(0.1, samples=3)
    )
    counted = Counted(objective)
    sample = objective.sample(params, None, 0, Stream.TRAIN, 0)
    counted.mean_terms(params, [sample], ["task", "noise", "curvature"])
    assert counts(counted) == (0, 4, 2)
    counted.value_and_grad(params, sample)
    assert counts(counted) == (1, 8, 4)


def test_terms_without_weight_cost_only_where_they_are_reported():
    objective, params = classification((0, 1, 0, 0), curvature=Spectral(iterations=5))
    counted = Counted(objective)
    samples = [objective.sample(params, None, 0, Stream.FRESH, i) for i in range(2)]
    counted.value_and_grad(params, samples[0])
    assert counts(counted) == (1, 0, 0)
    terms = counted.mean_terms(params, samples)
    assert counts(counted) == (1, 2 * 3, 2 * 6)
    assert list(counted.mean_terms(params, samples, ["task"])) == ["task"]
    assert counts(counted) == (1, 2 * 3 + 2, 2 * 6)
    each = [objective.evaluate(params, sample) for sample in samples]
    for name, value in terms.items():
        torch.testing.assert_close(value, (each[0][name] + each[1][name]) / 2)


def test_products_on_a_part_of_the_batch_count_as_that_part():
    objective, params = classification(curvature=Frobenius(), count=40)
    counted = Counted(objective)
    counted.value_and_grad(params, objective.sample(params, None, 0, Stream.STEP, 0))
    assert counts(counted) == (1, 3, 2 * 8 / 40)
    counted.value_and_grad(params, objective.sample(params, None, 0, Stream.TRAIN, 0))
    assert counts(counted) == (2, 6, 2 * 8 / 40 + 1)
