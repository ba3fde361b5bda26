from math import inf, nan
from typing import Protocol, runtime_checkable

import pytest
import torch

from phiopt._checks import count, fraction, known, number, part, positive, scalar
from phiopt._types import Function
from phiopt.objective import Curvature, Neighbourhood
from phiopt.solve import Solver


def test_a_scalar_is_a_float_or_the_tensor_itself():
    t = torch.tensor(0.5, requires_grad=True)
    assert scalar("delta", t) is t
    assert scalar("delta", 1) == 1.0
    assert known(t) == 0.5


@pytest.mark.parametrize("value", ["1", None, True, torch.ones(2), torch.tensor(1)])
def test_what_is_no_scalar_is_refused_by_name(value):
    with pytest.raises(TypeError, match=r"^delta: got"):
        scalar("delta", value)


def test_a_batched_tensor_is_unknown():
    seen = []
    torch.vmap(lambda t: seen.append(known(t)) or t)(torch.ones(3))
    assert seen == [None]


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-3, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_a_count_is_a_positive_whole_number(value, error):
    assert count("steps", 3) == 3
    with pytest.raises(error, match=r"^steps: got"):
        count("steps", value)


def test_a_count_may_begin_elsewhere():
    assert count("seed", 0, least=0) == 0
    with pytest.raises(ValueError, match=r"^seed: got -1, must be at least 0$"):
        count("seed", -1, least=0)


@pytest.mark.parametrize(
    ("value", "complaint"), [(dict, "the class dict"), ("u", "'u'"), (None, "None")]
)
def test_a_part_is_an_object_with_its_method(value, complaint):
    @runtime_checkable
    class Keyed(Protocol):
        def keys(self): ...
        def values(self): ...

    part("mapping", {}, Keyed)
    with pytest.raises(TypeError, match=f"^mapping: got {complaint}"):
        part("mapping", value, Keyed)


def test_what_a_part_lacks_is_said():
    class Halves:
        def draw(self, inputs, generator): ...

    rule = "must be a Neighbourhood, an object with perturb\\(\\) and draw"
    with pytest.raises(TypeError, match=f"^around: got .*which has no perturb\\(\\); {rule}"):
        part("around", Halves(), Neighbourhood)
    with pytest.raises(
        TypeError, match=r"^solver: got 3, which has no solve\(\) and no batch_size"
    ):
        part("solver", 3, Solver)
    with pytest.raises(
        TypeError, match=r"^loss: got 3, which has no __call__\(\); must be a callable"
    ):
        part("loss", 3, Function)
    with pytest.raises(
        TypeError, match=r"^curvature: got 3, which has no draw\(\) and no products"
    ):
        part("curvature", 3, Curvature)


@pytest.mark.parametrize("check", [fraction, positive, number])
def test_numbers_are_taken_off_the_graph_and_others_refused_by_name(check):
    actual = check("tol", torch.tensor(0.5, requires_grad=True))
    assert (actual, type(actual)) == (0.5, float)
    for value in ("a", None, True, torch.ones(2)):
        with pytest.raises(TypeError, match=r"^tol: got"):
            check("tol", value)


@pytest.mark.parametrize(
    ("check", "bad"), [(fraction, (0, 1, -1, nan)), (positive, (0, -1, inf, nan))]
)
def test_numbers_out_of_range_are_refused_by_name(check, bad):
    for value in bad:
        with pytest.raises(ValueError, match=r"^tol: got .*, must"):
            check("tol", value)
