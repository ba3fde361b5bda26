import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phiopt.objective import Lambdas
from phiopt.objective.lambdas import without_traces

weights = st.lists(st.floats(0.01, 1), min_size=4, max_size=4)


@given(weights)
def test_normalised_weights_are_accepted_and_kept(values):
    point = [v / sum(values) for v in values]
    lambdas = Lambdas(*point)
    assert [value for _, value in lambdas.items()] == pytest.approx(point, rel=1e-12)
    assert lambdas.active == ["task", "proximity", "noise", "curvature"]


@given(weights, st.floats(1e-5, 1))
def test_off_the_simplex_is_refused(values, excess):
    point = [v / sum(values) for v in values]
    with pytest.raises(ValueError, match="must sum to 1"):
        Lambdas(point[0] + excess, *point[1:])


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ((1.1, 0.1, -0.2, 0.0), "lambdas.noise: got -0.2"),
        ((float("nan"), 0.5, 0.5, 0.0), "lambdas.task: got nan"),
        ((0.5, 0.0, 0.5, 0.0), "lambdas.proximity: got 0"),
        ((0.5, 0.5, 0.5, 0.5), "their sum is 2"),
        ((0.5, 0.5), "got 2 numbers"),
    ],
)
def test_the_error_names_the_weight_and_the_rule(point, message):
    with pytest.raises(ValueError, match=message):
        Lambdas.of(point)


@pytest.mark.parametrize("value", ["abcd", 3, None, ("a", 0.5, 0.5, 0)])
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"^lambdas"):
        Lambdas.of(value)


def test_rounded_numbers_are_made_to_sum_to_one():
    lambdas = Lambdas(0.3333334, 0.3333333, 0.3333334, 0.0)
    assert sum(value for _, value in lambdas.items()) == pytest.approx(1, abs=1e-15)
    assert lambdas.active == ["task", "proximity", "noise"]


def test_numbers_of_any_kind_become_floats_beside_tensors_too():
    lambdas = Lambdas(np.float32(0.5), torch.tensor(0.5), 0, np.int64(0))
    assert [type(value) for _, value in lambdas.items()] == [float, torch.Tensor, float, float]
    assert lambdas.active == ["task", "proximity"]


def test_a_tensor_stays_differentiable_and_wholly_active():
    point = torch.tensor([0.5, 0.5, 0.0, 0.0], requires_grad=True)
    lambdas = Lambdas.of(point)
    assert lambdas.active == ["task", "proximity", "noise", "curvature"]
    (2 * lambdas.task + 3 * lambdas.curvature).backward()
    assert point.grad.tolist() == [2, 0, 0, 3]
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Lambdas.of(torch.ones(3) / 3)


def test_lambdas_can_be_made_inside_vmap():
    points = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    noise = torch.vmap(lambda point: Lambdas.of(point).noise * 1)(points)
    assert noise.tolist() == [0.0, 0.25]


def test_of_returns_lambdas_as_they_are():
    lambdas = Lambdas(0.25, 0.25, 0.25, 0.25)
    assert Lambdas.of(lambdas) is lambdas


def test_traces_of_a_search_are_zero():
    lambdas = Lambdas(0.5, 0.5 - 1e-12, 1e-12, 2.2e-16)
    rounded = without_traces(lambdas)
    assert (rounded.noise, rounded.curvature) == (0, 0)
    assert rounded.active == ["task", "proximity"]
    assert rounded.task == pytest.approx(0.5)
    kept = Lambdas(0.5, 0.4, 0.1 - 1e-8, 1e-8)
    assert without_traces(kept) is kept
