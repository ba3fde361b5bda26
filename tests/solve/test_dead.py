import pytest
import torch
from torch import nn

import phiopt
from phiopt.solve.dead import dead_units


def gradients(*shapes):
    return {f"{i}.weight": torch.ones(shape) for i, shape in enumerate(shapes)}


def test_both_sides_must_be_zero():
    g = gradients((4, 3), (5, 4))
    assert dead_units(g) == {}
    g["0.weight"][1:3] = 0
    g["1.weight"][:, 2:] = 0
    assert dead_units(g) == {"0.weight": 1}


def test_columns_of_flattened_channels_go_with_their_kernel():
    g = gradients((2, 1, 3, 3), (5, 2 * 4))
    g["0.weight"][1] = 0
    g["1.weight"][:, 4:7] = 0
    assert dead_units(g) == {}
    g["1.weight"][:, 7] = 0
    assert dead_units(g) == {"0.weight": 1}


def test_the_last_weight_and_one_without_a_reader_speak_by_their_rows():
    g = gradients((4, 3), (5, 7)) | {"1.bias": torch.zeros(5)}
    g["0.weight"][0] = 0
    g["1.weight"][3:] = 0
    assert dead_units(g) == {"0.weight": 1, "1.weight": 2}


def test_weights_without_entries_have_no_units():
    g = gradients((4, 3), (0, 3), (5, 4))
    assert dead_units(g) == {}
    g["0.weight"][1] = g["2.weight"][:, 1] = 0
    assert dead_units(g) == {"0.weight": 1}


@pytest.mark.parametrize(("start", "dead"), [("zero", 6), ("zero-out", 0), ("default", 0)])
def test_growth_by_zeros_is_dead_and_zero_out_is_not(start, dead):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
        student = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 3))
        data = torch.randn(50, 4), torch.randint(3, (50,))
    solver = phiopt.TorchOpt(steps=2, batch_size=None)
    found = phiopt.initialize(
        teacher, student, (0.5, 0.5, 0, 0), data, start=start, solver=solver, throw=False
    )
    assert sum(found.certificate.dead_units.values()) == dead
