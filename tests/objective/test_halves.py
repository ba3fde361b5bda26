"""The halves of a step's batch: what each is for, that nothing is biased by them, and where there are none."""

from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch

from phiopt.objective import Frobenius, Lambdas, Stream, TaskTerm, Term, Uniform
from phiopt.solve import TorchOpt
from tests.cases import classification, flatten
from tests.extra_terms import Far

SIZE = 40


class OfTheBatch(Term):
    """The variance of the outputs over the batch."""

    name: ClassVar[str] = "spread"
    over: ClassVar[Literal["examples", "batch", "parameters"]] = "batch"

    def value(self, at, draws):
        return at.outputs.var(0).sum()


def drawn(lambdas, *, size=SIZE, curvature=None, extra=()):
    objective, params = classification(lambdas, count=60, curvature=curvature)
    for term in extra:
        objective = replace(objective.with_term(term), extra={term.name: 0.5})
    return objective, params, objective.sample(params, size, 0, Stream.STEP, 0)


def test_noise_has_one_half_and_all_other_terms_the_other():
    objective, params, sample = drawn((0.3, 0.2, 0.3, 0.2))
    assert set(sample.draws) == {"task", "proximity", "curvature"}
    assert set(sample.rest.draws) == {"noise"}
    assert len(sample.inputs) == len(sample.rest.inputs) == SIZE // 2
    both = torch.cat([sample.inputs, sample.rest.inputs])
    assert len(both.unique(dim=0)) == SIZE  # no example is in both
    terms = objective.evaluate(params, sample)
    assert list(terms) == ["task", "proximity", "noise", "curvature"]


def test_the_step_is_the_sum_of_what_the_halves_give():
    """Each half by itself, with the weights of the whole objective."""
    objective, params, sample = drawn((0.3, 0.3, 0.4, 0))
    value, terms, gradient = objective.value_and_grad(params, sample)
    first, second = sample.halves
    parts = [objective.value_and_grad(params, half) for half in (first, second)]
    torch.testing.assert_close(value, parts[0][0] + parts[1][0])
    torch.testing.assert_close(flatten(gradient), sum(flatten(part[2]) for part in parts))
    assert terms.keys() == parts[0][1].keys() | parts[1][1].keys()
    divided = replace(objective, micro_batch=3).value_and_grad(params, sample)
    torch.testing.assert_close(divided[0], value)
    torch.testing.assert_close(flatten(divided[2]), flatten(gradient))


def test_the_gradient_has_the_expectation_of_whole_batches():
    """δ = 0: only the choice of the halves is random. The mean of 300 steps is within five standard errors."""
    objective, params = classification(
        (0.3, 0.2, 0.5, 0), count=60, neighbourhood=Uniform(1e-9, samples=1)
    )
    steps = (objective.sample(params, SIZE, 0, Stream.STEP, i) for i in range(300))
    gradients = torch.stack([flatten(objective.value_and_grad(params, s)[2]) for s in steps])
    whole = objective.sample(params, None, 0, Stream.TRAIN, 0)
    expected = flatten(objective.value_and_grad(params, whole)[2])
    error = gradients.std(0) / len(gradients) ** 0.5
    assert ((gradients.mean(0) - expected).abs() <= 5 * error + 1e-9).all()


def test_equal_weights_lose_nothing():
    """λ1 = λ3 and δ near 0: an example's two gradients are equal, and the variance is that of whole batches."""
    objective, params = classification(
        (0.45, 0.1, 0.45, 0), count=60, neighbourhood=Uniform(1e-9, samples=1)
    )
    alone = replace(objective, lambdas=Lambdas(0.9, 0.1, 0, 0))
    variances = []
    for each in (objective, alone):
        steps = (each.sample(params, SIZE, 0, Stream.STEP, i) for i in range(300))
        gradients = torch.stack([flatten(each.value_and_grad(params, s)[2]) for s in steps])
        variances.append(gradients.var(0).sum())
    assert 0.8 < variances[0] / variances[1] < 1.25


@pytest.mark.parametrize(
    "case",
    [
        {"lambdas": (0.6, 0.4, 0, 0)},
        {"lambdas": (0, 0.4, 0.6, 0)},
        {"lambdas": (0.3, 0.3, 0.4, 0), "size": None},
        {"lambdas": (0.3, 0.3, 0.4, 0), "size": 15},
        {"lambdas": (0.3, 0.2, 0.3, 0.2), "curvature": Frobenius(batch=None)},
        {"lambdas": (0.3, 0.3, 0.4, 0), "extra": [OfTheBatch()]},
    ],
    ids=["no noise", "noise alone", "all of D1", "small", "exact curvature", "over the batch"],
)
def test_elsewhere_the_batch_is_whole(case):
    _, _, sample = drawn(**case)
    assert sample.rest is None


def test_a_noise_term_of_ones_own_goes_with_the_noise():
    _, _, sample = drawn((0.5, 0.5, 0, 0), extra=[Far(Uniform(0.2))])
    assert set(sample.rest.draws) == {"far"}
    assert TaskTerm.name in sample.draws


def test_the_work_of_a_step_counts_halves():
    objective, params, sample = drawn((0.3, 0.2, 0.3, 0.2))
    samples = len(sample.rest.draws["noise"][0])
    work = objective.work(sample)
    assert work.task + work.forward == (1 + samples) / 2
    assert work.hvp == 2 * 2 * 8 / SIZE  # two probes
    stats = TorchOpt(steps=1, batch_size=SIZE).solve(objective, params).stats
    assert stats.forward == (1 + samples) / 2 + 2 * 4 * (1 + samples)
