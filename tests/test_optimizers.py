import pytest
import torch
import torchopt
from torch import nn
from torch.func import grad, hessian, vmap

import phiopt
from phiopt.objective import CurvatureTerm, Frobenius, Stream
from phiopt.optimizers import clipped, default_optimizer, flattened, masked, normalised
from phiopt.solve import TorchOpt
from tests.cases import classification, mlp, parameters, randn, ridge


@pytest.mark.slow
def test_the_argmin_over_the_mask_is_that_of_the_restricted_quadratic():
    case = ridge()
    objective = case.objective()
    weight = case.start["weight"]
    mask = torch.arange(weight.numel()).reshape(weight.shape) % 2 == 0
    optimizer = masked(torchopt.sgd(0.15, momentum=0.8), {"weight": mask})
    solver = TorchOpt(optimizer, steps=2000, batch_size=None, fresh=False)
    outcome = solver.solve(objective, case.start, seed=3).params["weight"]

    sample = objective.sample(case.start, None, 3, Stream.TRAIN, 0)
    value = lambda w: objective.value({"weight": w.reshape(weight.shape)}, sample)  # noqa: E731
    free, w0 = mask.flatten(), weight.flatten()
    slope, curvature = grad(value)(w0)[free], hessian(value)(w0)[free][:, free]
    expected = w0.clone()
    expected[free] -= torch.linalg.solve(curvature, slope)
    torch.testing.assert_close(outcome.flatten(), expected, rtol=1e-8, atol=1e-8)


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


@pytest.mark.parametrize("size", [0.0, 0.1, 30.0])
def test_a_gradient_is_shortened_to_the_norm_and_else_left(size):
    gradient = {"a": size * randn(3, seed=0), "b": size * randn(2, seed=1)}
    w = {name: torch.zeros_like(value) for name, value in gradient.items()}
    ours, theirs = clipped(torchopt.sgd(1.0), 0.5), torchopt.clip.clip_grad_norm(0.5)
    gradients = ours.update(gradient, ours.init(w), params=w, inplace=False)[0]
    wanted = theirs.update(gradient, theirs.init(w), params=w, inplace=False)[0]
    for name in w:
        torch.testing.assert_close(-gradients[name], wanted[name], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("size", [0.0, 0.1, 30.0])
def test_the_factor_is_differentiated(size):
    optimizer = clipped(torchopt.sgd(1.0), 0.5)

    def moved(g):
        w = {"w": torch.zeros_like(g)}
        return optimizer.update({"w": g}, optimizer.init(w), params=w, inplace=False)[0]["w"]

    assert torch.autograd.gradcheck(moved, (size * randn(3, seed=0)).requires_grad_())


def test_a_norm_that_is_none_is_refused():
    with pytest.raises(ValueError, match="max_norm"):
        clipped(torchopt.sgd(1.0), 0.0)


def test_steps_depend_on_the_gradients_direction_alone():
    torch.manual_seed(0)
    w = {"a": torch.randn(3, 2, dtype=torch.float64), "b": torch.randn(4, dtype=torch.float64)}
    for optimizer in (torchopt.sgd(0.1), torchopt.adam(1e-2)):
        ours = normalised(optimizer)
        small, _ = ours.update({n: 1e-6 * v for n, v in w.items()}, ours.init(w), params=w)
        large, _ = ours.update({n: 1e9 * v for n, v in w.items()}, ours.init(w), params=w)
        torch.testing.assert_close(small, large, rtol=1e-7, atol=0.0)
    step, _ = normalised(torchopt.sgd(0.1)).update(w, normalised(torchopt.sgd(0.1)).init(w))
    assert sum(float(v.square().sum()) for v in step.values()) == pytest.approx(0.01 * 10)


def test_a_gradient_of_zero_stays_zero_and_differentiable():
    optimizer = normalised(torchopt.sgd(1.0))

    def moved(g):
        (step, _) = optimizer.update({"w": g}, optimizer.init({"w": g}))
        return step["w"].sum()

    zero = torch.zeros(3, dtype=torch.float64)
    assert moved(zero) == 0
    assert grad(moved)(zero).isfinite().all()


def test_its_derivative_is_that_of_the_direction():
    optimizer = normalised(torchopt.sgd(1.0))
    g = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: optimizer.update({"w": x}, optimizer.init({"w": x}))[0]["w"], g
    )


def test_a_curvature_that_collapses_does_not_leave_short_steps_behind():
    """Gradients that fall a thousandfold: Adam remembers the first ones, and hardly moves after them."""
    w = {"w": torch.zeros(2)}
    travelled = {}
    for name, wrap in (("plain", lambda o: o), ("normalised", normalised)):
        optimizer = wrap(torchopt.adam(1e-2))
        state, total = optimizer.init(w), torch.zeros(2)
        for step in range(60):
            size = 1e3 if step < 10 else 1.0
            update, state = optimizer.update({"w": size * torch.ones(2)}, state, params=w)
            total += update["w"]
        travelled[name] = float(total.abs().max())
    assert travelled["normalised"] == pytest.approx(60 * 1e-2, rel=1e-3)
    assert travelled["plain"] < 0.5 * travelled["normalised"]


def test_the_default_solver_takes_normalised_steps():
    case = ridge()
    objective = case.objective().with_term(CurvatureTerm(Frobenius(batch=None)))
    given = TorchOpt(default_optimizer(40), steps=40, batch_size=16)
    by_default = TorchOpt(steps=40, batch_size=16).solve(objective, case.start, seed=1)
    explicit = given.solve(objective, case.start, seed=1)
    assert by_default.objective == explicit.objective < by_default.start_objective
    sample = objective.sample(case.start, 16, 1, Stream.STEP, 0)
    assert float(objective.value(case.start, sample)) > by_default.objective


def test_over_a_window_a_gradient_keeps_its_size_beside_its_neighbours():
    """Every fourth gradient is eight times the others: with a window of four it stays much larger."""
    w = {"w": torch.zeros(3, dtype=torch.float64)}
    sizes = {}
    for window in (1, 4):
        optimizer = normalised(torchopt.sgd(1.0), window)
        state, steps = optimizer.init(w), []
        for step in range(40):
            g = (8.0 if step % 4 == 0 else 1.0) * torch.ones(3, dtype=torch.float64)
            update, state = optimizer.update({"w": g}, state, params=w)
            steps.append(float(update["w"].abs().mean()))
        sizes[window] = steps[-4] / steps[-1]
    assert sizes[1] == pytest.approx(1.0)
    assert sizes[4] > 4


def test_the_default_averages_over_as_many_steps_as_share_one_curvature():
    objective, start = classification((0.25, 0.25, 0.25, 0.25), count=64)
    for every in (1, 4):
        changed = objective.with_term(CurvatureTerm(Frobenius(every=every)))
        explicit = TorchOpt(default_optimizer(12, every=every), steps=12, batch_size=32)
        expected = explicit.solve(changed, start, seed=1).params
        outcome = TorchOpt(steps=12, batch_size=32).solve(changed, start, seed=1).params
        assert all(torch.equal(outcome[name], expected[name]) for name in expected)


def test_a_bad_window_is_named():
    with pytest.raises(ValueError, match="window: got 0"):
        normalised(torchopt.sgd(1.0), window=0)


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
