"""The problem by itself: what many points are solved from is what `initialize` solves."""

import pytest
import torch
import torch.nn.functional as F
import torchopt
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from phiopt._task_checks import check_task
from phiopt.growth import grow
from phiopt.initialize import initialize
from phiopt.objective import Gaussian, Lambdas, Uniform
from phiopt.pose import pose
from phiopt.solve import LBFGS, NewtonCG, SolveError, TorchOpt
from tests.cases import flatten, generator, mlp, parameters, randn
from tests.functions import SquareOnce

X, Y = randn(60, 4, seed=3), torch.randint(2, (60,), generator=generator(4))
SOLVER = TorchOpt(torchopt.adam(2e-2), steps=8, batch_size=16, check_every=4)
CENTRE = Lambdas(0.25, 0.25, 0.25, 0.25)


def test_many_points_of_a_problem_are_what_initialize_gives():
    small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    options = {"neighbourhood": Gaussian(0.3), "classes": (2, 0), "restrict_classes": True}
    points = torch.tensor([[0.25] * 4, [0.3, 0.3, 0.4, 0.0]], dtype=torch.float64)
    problem = pose(small, large, CENTRE, (X, Y), batch_size=16, seed=5, **options)
    first, second = problem.solve_many(points, solver=SOLVER)
    for point, ours in zip(points, (first, second), strict=True):
        theirs = initialize(small, large, point.tolist(), (X, Y), solver=SOLVER, seed=5, **options)
        torch.testing.assert_close(flatten(ours.params), flatten(theirs.params))
        assert ours.objective == pytest.approx(theirs.objective)
        assert ours.terms == pytest.approx(theirs.terms)


def test_what_is_not_solved_for_is_constant():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    student[3].bias.requires_grad_(False)
    teacher = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2))
    posed = pose(teacher, student, CENTRE, (X.float(), Y))
    names = {"1.running_mean", "1.running_var", "1.num_batches_tracked", "3.bias"}
    assert posed.constants.keys() == names
    assert not posed.constants.keys() & posed.start.keys()


class Drops(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5)  # forgets that it is being evaluated


@pytest.mark.parametrize("make", [Drops, lambda: nn.BatchNorm1d(6, track_running_stats=False)])
def test_examples_that_see_each_other_cannot_be_taken_apart(make):
    small = nn.Sequential(nn.Linear(4, 6), make(), nn.Tanh(), nn.Linear(6, 2))
    large = nn.Sequential(nn.Linear(4, 6), make(), nn.Tanh(), nn.Linear(6, 3))
    data = (X.float(), Y)
    with pytest.raises(ValueError, match="micro_batch: the outputs of two examples change"):
        initialize(small, large, (0.4, 0.4, 0.2, 0), data, micro_batch=8)
    objective = pose(small, large, Lambdas(0.4, 0.4, 0.2, 0), data).objective
    with pytest.raises(ValueError, match="process_group: the outputs of two examples change"):
        check_task(large, flatten, objective, parameters(large), 1, {"process_group": object()})
    initialize(small, large, (0.4, 0.4, 0.2, 0), data, solver=SOLVER, throw=False)


def of_the_batch(outputs, targets):
    return F.cross_entropy(outputs / outputs.norm(), targets, reduction="none")


def test_a_loss_that_normalises_over_the_batch_cannot_be_taken_apart():
    small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
    case = (small, large, Lambdas(0.4, 0.4, 0.2, 0), (X, Y))
    with pytest.raises(ValueError, match="micro_batch: the mean loss of two examples is"):
        pose(*case, loss=of_the_batch, micro_batch=8)
    pose(*case, loss=of_the_batch)
    pose(*case, loss=lambda o, y: F.cross_entropy(o, y, reduction="none"), micro_batch=8)


class Frail(torch.autograd.Function):
    """The identity, whose second derivative raises on batches of more than two examples."""

    @staticmethod
    def forward(x, order):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.order = inputs[1]

    @staticmethod
    def backward(ctx, gradient):
        if ctx.order == 2 and len(gradient) > 2:
            raise RuntimeError("out of memory")
        return Frail.apply(gradient, ctx.order + 1), None


class Bag(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.bag, self.last = nn.EmbeddingBag(7, width), nn.Linear(width, classes)

    def forward(self, x):
        return self.last(self.bag(x))


def hinges(outputs, targets):
    return F.multi_margin_loss(outputs, targets, reduction="none")


def flat(outputs, targets):
    return F.cross_entropy(SquareOnce.apply(outputs), targets, reduction="none")


CASES = [
    ("loss that raises", "torchopt"),
    ("loss that is wrong", "lbfgs"),
    ("layer", "torchopt"),
    pytest.param("loss that raises", "lbfgs", marks=pytest.mark.slow),
    pytest.param("loss that is wrong", "torchopt", marks=pytest.mark.slow),
    pytest.param("layer", "lbfgs", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("case", "kind"), CASES)
def test_a_curvature_without_weight_or_derivatives_is_not_reported(case, kind):
    solver = SOLVER if kind == "torchopt" else LBFGS(draws=1, tol=0.5)
    tokens = torch.randint(7, (40, 3), generator=generator(5))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small, large = (Bag(5, 2), Bag(5, 2)) if case == "layer" else (mlp(4, 3, 2), mlp(4, 5, 2))
    data = (tokens, Y[:40]) if case == "layer" else (X, Y)
    loss = {"layer": None, "loss that raises": hinges, "loss that is wrong": flat}[case]
    options = {"loss": loss, "solver": solver, "throw": False}
    lambdas = (0.5, 0.5, 0, 0)
    found = initialize(small, large, lambdas, data, **options)
    assert found.objective < found.start_objective
    assert "task" in found.terms
    assert "curvature" not in found.terms
    assert "not reported, has no derivatives to trust" in str(found)
    with pytest.raises(TypeError, match="solver: NewtonCG needs second derivatives"):
        initialize(small, large, lambdas, data, loss=loss, solver=NewtonCG())
    with pytest.raises(TypeError, match="third derivatives"):
        initialize(small, large, (0.4, 0.4, 0, 0.2), data, **options)


def test_a_report_that_raises_does_not_cost_the_solution():
    def loss(outputs, targets):
        return F.cross_entropy(Frail.apply(outputs, 1), targets, reduction="none")

    models = mlp(4, 3, 2), mlp(4, 5, 2)
    with pytest.raises(
        SolveError, match=r"REPORT_FAILED(.|\n)*curvature.*: out of memory"
    ) as raised:
        initialize(*models, (0.5, 0.5, 0, 0), (X, Y), loss=loss, solver=SOLVER)
    found = raised.value.solution
    assert found.objective < found.start_objective
    assert list(found.terms) == ["task", "proximity", "noise"]


def test_a_loss_that_fails_says_on_which_shapes():
    shares = torch.rand(60, 2, generator=generator(5), dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"loss: fails on .* \(2, 3\) and targets of shape \(2, 2\)"
    ):
        pose(
            mlp(4, 3, 2, seed=1),
            mlp(4, 5, 3, seed=2),
            CENTRE,
            (X, shares),
            loss=lambda outputs, targets: (outputs - targets).square().mean(1),
        )


def test_images_of_whole_numbers_are_refused_with_the_rule():
    images = torch.randint(256, (60, 4), generator=generator(5)).byte()
    with pytest.raises(ValueError, match=r"torch.uint8 of shape .*images must be floating"):
        pose(mlp(4, 3, 2), mlp(4, 5, 2), CENTRE, (images, Y))


class Reader(nn.Module):
    """An encoder of padded tokens, as PyTorch makes it by default: its fast path is of nested tensors."""

    def __init__(self, width):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True)
        self.table, self.last = nn.Embedding(7, width), nn.Linear(width, 2)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, x):
        padding = x == 0
        hidden = self.encoder(self.table(x), src_key_padding_mask=padding)
        return self.last(hidden.masked_fill(padding[..., None], 0.0).sum(1))


def test_an_encoder_of_padded_tokens_is_initialised():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small, large = Reader(4), Reader(8)
    tokens = torch.randint(1, 7, (60, 5), generator=generator(5))
    tokens[::2, 3:] = 0
    grown = grow(small, large, "zero-out", inputs=tokens, verify=True)
    assert grown.verification.exact
    found = initialize(small, large, (0.4, 0.3, 0.0, 0.3), (tokens, Y), solver=SOLVER)
    assert found.objective < found.start_objective
    assert torch.backends.mha.get_fastpath_enabled()


def test_hooks_on_the_backward_pass_are_kept_and_not_called():
    seen = []
    large = mlp(4, 5, 2)
    large[2].register_full_backward_hook(lambda *_: seen.append(1))
    found = initialize(mlp(4, 3, 2), large, CENTRE, (X, Y), solver=SOLVER)
    assert not seen
    found.student(X).sum().backward()
    assert seen


class Signs:
    """A neighbourhood of x and -x."""

    def draw(self, inputs, generator):
        return (torch.ones_like(inputs)[None], -torch.ones_like(inputs)[None])

    def perturb(self, inputs, draw):
        return inputs * torch.cat(draw)


class TestPosedOnce:
    def test_a_solve_is_what_initialize_gives(self):
        small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
        problem = pose(small, large, CENTRE, (X, Y), batch_size=16, seed=5)
        options = {"solver": SOLVER, "seed": 5}
        for weights, delta in ((CENTRE, 0.1), ((0.5, 0.2, 0.3, 0.0), 0.4), (CENTRE, 0.1)):
            ours = problem.solve(weights, delta=delta, solver=SOLVER)
            around = Uniform(delta)
            theirs = initialize(small, large, weights, (X, Y), neighbourhood=around, **options)
            assert torch.equal(flatten(ours.params), flatten(theirs.params))
            assert ours.terms == theirs.terms
            assert ours.map is problem.map
        again = problem.solve(solver=SOLVER, seed=6)
        assert not torch.equal(flatten(again.params), flatten(ours.params))

    def test_a_loader_is_read_from_its_beginning_by_each_solve(self):
        own = torch.Generator().manual_seed(1)
        loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True, generator=own)
        problem = pose(mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2), CENTRE, loader)
        first, other, again = (problem.solve(solver=SOLVER, seed=seed) for seed in (0, 1, 0))
        assert torch.equal(flatten(first.params), flatten(again.params))
        assert not torch.equal(flatten(first.params), flatten(other.params))

    def test_a_start_takes_along_what_is_not_solved_for(self):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
        student[3].bias.requires_grad_(False)
        teacher = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2))
        data = X.float(), Y
        start = {**dict(student.named_parameters()), **dict(student.named_buffers())}
        start = {n: v.detach() * 1.5 if v.is_floating_point() else v for n, v in start.items()}
        problem = pose(teacher, student, CENTRE, data, scale="paper", batch_size=16)
        before = parameters(problem.student)["3.bias"]
        ours = problem.solve(start=start, solver=SOLVER)
        options = {"start": start, "solver": SOLVER, "scale": "paper"}
        theirs = initialize(teacher, student, CENTRE, data, **options)
        torch.testing.assert_close(flatten(ours.params), flatten(theirs.params))
        assert torch.equal(ours.student[3].bias, start["3.bias"])
        assert torch.equal(ours.student[1].running_mean, start["1.running_mean"])
        assert torch.equal(problem.student[3].bias, before)

    def test_a_map_is_taken_and_given_back(self):
        small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
        first = initialize(small, large, CENTRE, (X, Y), classes=(2, 0), solver=SOLVER)
        again = initialize(small, large, CENTRE, (X, Y), map=first.map, solver=SOLVER)
        assert again.map is first.map
        assert torch.equal(flatten(first.params), flatten(again.params))
        with pytest.raises(ValueError, match=r"^classes=\(0, 1\) contradict map="):
            pose(small, large, CENTRE, (X, Y), map=first.map, classes=(0, 1))
        with pytest.raises(ValueError, match=r"^map= belongs to other models"):
            pose(small, mlp(4, 6, 3), CENTRE, (X, Y), map=first.map)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            (
                {"lambdas": CENTRE},
                ValueError,
                "^lambdas.curvature: got 0.25, must be the number 0: .*posed",
            ),
            ({"delta": -1.0}, ValueError, "^delta: got -1"),
            ({"delta": "wide"}, TypeError, "^delta: got 'wide'"),
            ({"start": "zero"}, TypeError, "^start: got 'zero', must be Params"),
            ({"start": {}}, ValueError, "^start: lacks 0.weight"),
            ({"seed": -1}, ValueError, "^seed: got -1"),
            ({"solver": 3}, TypeError, "^solver: got 3|^solver: got int"),
            ({"restarts": -1}, ValueError, "^restarts: got -1"),
            ({"throw": 1}, TypeError, "^throw: got 1"),
        ],
    )
    def test_bad_arguments_are_named(self, options, error, message):
        small, large = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
        problem = pose(small, large, (0.4, 0.3, 0.3, 0.0), (X, Y))
        with pytest.raises(error, match=message):
            problem.solve(**options)

    def test_a_neighbourhood_without_delta_takes_none(self):
        around = Signs()
        problem = pose(mlp(4, 3, 2), mlp(4, 5, 2), CENTRE, (X, Y), neighbourhood=around)
        with pytest.raises(ValueError, match=r"^delta: got 0.2, must be None"):
            problem.solve(delta=0.2)
