import torch
from torch.func import grad

from phiopt.objective.proximity import proximity
from tests.cases import classification


def test_it_is_the_squared_distance_at_the_teachers_places():
    objective, params = classification()
    u = objective.term("proximity").teacher
    expected = sum(
        (u[name] - params[name][tuple(slice(n) for n in u[name].shape)]).square().sum()
        for name in u
    )
    torch.testing.assert_close(proximity(params, u, objective.term("proximity").extract), expected)


def test_its_gradient_is_zero_off_the_teachers_places():
    objective, params = classification()
    gradient = grad(proximity)(
        params, objective.term("proximity").teacher, objective.term("proximity").extract
    )
    weight, like = gradient["0.weight"], objective.term("proximity").teacher["0.weight"]
    torch.testing.assert_close(weight[:3], 2 * (params["0.weight"][:3] - like))
    assert weight[3:].count_nonzero() == 0


def test_what_the_parameters_do_not_hold_does_not_count():
    objective, params = classification()
    some = {"0.bias": params["0.bias"]}
    expected = (objective.term("proximity").teacher["0.bias"] - params["0.bias"][:3]).square().sum()
    torch.testing.assert_close(
        proximity(some, objective.term("proximity").teacher, objective.term("proximity").extract),
        expected,
    )
