import pytest
import torch
import torchopt
from torch import nn
from torch.func import grad, hessian

import phiopt
from phiopt.objective import Stream
from phiopt.solve import TorchOpt, masked
from tests.cases import ridge


@pytest.mark.slow
def test_the_argmin_over_the_mask_is_that_of_the_restricted_quadratic():
    case = ridge()
    objective = case.objective()
    weight = case.start["weight"]
    mask = torch.arange(weight.numel()).reshape(weight.shape) % 2 == 0
    optimizer = masked(torchopt.sgd(0.15, momentum=0.8), {"weight": mask})
    solver = TorchOpt(optimizer, steps=2000, batch_size=None, fresh=False)
    found = solver.solve(objective, case.start, seed=3).params["weight"]

    sample = objective.sample(case.start, None, 3, Stream.TRAIN, 0)
    value = lambda w: objective.value({"weight": w.reshape(weight.shape)}, sample)  # noqa: E731
    free, w0 = mask.flatten(), weight.flatten()
    slope, curvature = grad(value)(w0)[free], hessian(value)(w0)[free][:, free]
    expected = w0.clone()
    expected[free] -= torch.linalg.solve(curvature, slope)
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-8, atol=1e-8)


def grown():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    student = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    data = torch.randn(40, 4, dtype=torch.float64), torch.randint(2, (40,))
    mask = phiopt.GrowthMap.between(teacher, student).mask()
    return teacher, student, data, mask


def test_phi_moves_the_teachers_coordinates_alone():
    teacher, student, data, mask = grown()
    start = dict(phiopt.grow(teacher, student, "default").named_parameters())
    # Decoupled decay would shrink coordinates whose gradient is zero.
    solver = TorchOpt(masked(torchopt.adamw(1e-2, weight_decay=0.1), mask), steps=10)
    solution = phiopt.initialize(teacher, student, (0.4, 0.2, 0.4, 0.0), data, solver=solver)
    for name, value in solution.params.items():
        assert torch.equal(value[~mask[name]], start[name][~mask[name]])
        assert (value != start[name])[mask[name]].all()


def test_the_adjoint_in_the_start_sees_the_coordinates_that_stay():
    teacher, student, data, mask = grown()
    start = {n: p.detach() for n, p in phiopt.grow(teacher, student, "default").named_parameters()}
    solver = TorchOpt(masked(torchopt.sgd(0.1), mask), steps=5)

    def outer(weight, adjoint=None):
        solution = phiopt.initialize(
            teacher,
            student,
            (0.4, 0.2, 0.2, 0.2),
            data,
            start=start | {"0.weight": weight},
            scale="paper",
            solver=solver,
            adjoint=adjoint,
        )
        return sum(p.square().sum() for p in solution.params.values())

    weight = start["0.weight"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(outer(weight, phiopt.Replay()), weight)
    direction = torch.randn_like(weight)
    h = 1e-5
    moved = (outer(start["0.weight"] + sign * h * direction) for sign in (1, -1))
    central = (next(moved) - next(moved)) / (2 * h)
    assert float((slope * direction).sum()) == pytest.approx(float(central), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask.pop("0.bias"), r"mask: lacks 0\.bias, must hold every parameter"),
        (
            lambda mask: mask.update({"0.bias": torch.ones(3)}),
            r"mask: 0\.bias is \(3,\), must be \(7,\)",
        ),
        (
            lambda mask: mask.update({"0.bias": torch.ones(7)}),
            r"mask: 0\.bias is torch\.float32, must be torch\.bool",
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(change, message):
    teacher, student, data, mask = grown()
    change(mask)
    solver = TorchOpt(masked(torchopt.sgd(0.1), mask), steps=2)
    with pytest.raises(ValueError, match=message):
        phiopt.initialize(teacher, student, (0.5, 0.5, 0.0, 0.0), data, solver=solver)
