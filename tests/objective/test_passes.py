"""Several small batches, or a curvature that comes now and then, and the same gradient."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phiopt.objective import CurvatureTerm, Frobenius, Spectral, Stream
from tests.cases import classification, randn

LAMBDAS = (0.3, 0.2, 0.35, 0.15)
CURVATURES = {
    "exact": Frobenius(probes=2, batch=None),
    "two batches": Frobenius(batch=0.8),
    "gauss-newton": Frobenius(matrix="gauss-newton"),
    "spectral": Spectral(iterations=3),
}


def agree(objective, params, stream, size):
    sample = objective.sample(params, None, 0, stream, 0)
    whole = objective.value_and_grad(params, sample)
    pieces = replace(objective, micro_batch=size).value_and_grad(params, sample)
    weighty = [{n: r[1][n] for n in objective.lambdas.active} for r in (pieces, whole)]
    torch.testing.assert_close(*weighty, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(pieces[::2], whole[::2], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["exact", "gauss-newton", "spectral"])
def test_small_batches_give_the_same_result(name):
    objective, params = classification(LAMBDAS, curvature=CURVATURES[name], count=11)
    agree(objective, params, Stream.TRAIN, 4)


@pytest.mark.parametrize("name", ["exact", "gauss-newton", "spectral"])
def test_small_batches_give_the_same_terms_and_hessian(name):
    objective, params = classification(LAMBDAS, curvature=CURVATURES[name], count=11)
    sample = objective.sample(params, None, 0, Stream.TRAIN, 0)
    pieces = replace(objective, micro_batch=4)
    for names in (None, ["curvature"], ["noise", "task"]):
        actual, wanted = (each.evaluate(params, sample, names) for each in (pieces, objective))
        for term in names or wanted:
            torch.testing.assert_close(actual[term], wanted[term], rtol=1e-9, atol=1e-12)
    vector = {k: randn(*p.shape, seed=i) for i, (k, p) in enumerate(params.items())}
    actual, wanted = (each.hessian(params, sample)(vector) for each in (pieces, objective))
    torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lambdas", [LAMBDAS, (0.4, 0.3, 0.3, 0)], ids=["all", "no curvature"])
def test_nothing_sees_more_than_a_small_batch(lambdas):
    objective, params = classification(lambdas, count=11)
    seen = []

    def model(w, inputs):
        seen.append(len(inputs))
        return objective.model(w, inputs)

    pieces = replace(objective, model=model, micro_batch=4)
    sample = pieces.sample(params, None, 0, Stream.TRAIN, 0)
    samples = len(sample.draws["noise"][0])
    pieces.evaluate(params, sample)
    pieces.value_and_grad(params, sample)
    pieces.hessian(params, sample)(params)
    assert max(seen) == 4 * samples


def test_small_batches_give_the_same_step():
    objective, params = classification(LAMBDAS, curvature=CURVATURES["two batches"], count=43)
    agree(objective, params, Stream.STEP, 9)


@settings(max_examples=10, deadline=None)
@given(
    size=st.integers(1, 9),
    count=st.integers(1, 7),
    active=st.sets(st.sampled_from(["task", "noise", "curvature"])),
)
def test_any_size_of_batch_and_any_terms(size, count, active):
    names = {"proximity", *active}
    lambdas = [(n in names) / len(names) for n in ("task", "proximity", "noise", "curvature")]
    objective, params = classification(lambdas, curvature=Frobenius(), count=count)
    agree(objective, params, Stream.TRAIN, size)


def test_a_lazy_step_leaves_the_curvature_out_or_counts_it_often():
    objective, params = classification(LAMBDAS, curvature=Frobenius(every=3))
    every_step = objective.with_term(CurvatureTerm(Frobenius()))
    for step in range(4):
        sample = objective.sample(params, None, 0, Stream.STEP, step)
        value, terms, gradient = objective.value_and_grad(params, sample)
        full = every_step.sample(params, None, 0, Stream.STEP, step)
        repeat = 0 if step % 3 else 3
        weights = (LAMBDAS[0], LAMBDAS[1], LAMBDAS[2], repeat * LAMBDAS[3])
        all_terms = every_step.evaluate(params, full)
        expected = sum(w * t for w, t in zip(weights, all_terms.values(), strict=True))
        torch.testing.assert_close(value, expected)
        assert ("curvature" in terms) == (repeat > 0)
        total = sum(weights)  # back on the simplex
        scaled = replace(every_step, lambdas=type(objective.lambdas)(*(w / total for w in weights)))
        expected = {n: total * g for n, g in scaled.value_and_grad(params, full)[2].items()}
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("stream", [Stream.TRAIN, Stream.HELD_OUT, Stream.FRESH, Stream.REFERENCE])
def test_elsewhere_laziness_does_not_count(stream):
    objective, params = classification(LAMBDAS, curvature=Frobenius(every=3))
    for step in range(3):
        lazy = objective.sample(params, None, 0, stream, step)
        full = objective.with_term(CurvatureTerm(Frobenius()))
        assert torch.equal(objective.value(params, lazy), full.value(params, lazy))
        assert not lazy.step


def test_a_bad_size_is_named():
    objective, _ = classification()
    with pytest.raises(ValueError, match="micro_batch: got 0"):
        replace(objective, micro_batch=0)
