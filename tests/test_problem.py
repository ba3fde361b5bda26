"""What `pose` makes of models, data and losses of many kinds, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from phiopt._task_checks import check_task
from phiopt.growth import grow
from phiopt.initialize import initialize
from phiopt.objective import Lambdas
from phiopt.pose import pose
from phiopt.solve import LBFGS, NewtonCG, SolveError
from tests.cases import flatten, generator, mlp, parameters
from tests.functions import SquareOnce
from tests.posing import CENTRE, SOLVER, X, Y


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
    options = {"loss": loss, "solver": solver, "certificate": "full", "throw": False}
    lambdas = (0.5, 0.5, 0, 0)
    solution = initialize(small, large, lambdas, data, **options)
    assert solution.objective < solution.start_objective
    assert "task" in solution.terms
    assert "curvature" not in solution.terms
    assert "not reported, has no derivatives to trust" in str(solution)
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
        initialize(*models, (0.5, 0.5, 0, 0), (X, Y), loss=loss, solver=SOLVER, certificate="full")
    solution = raised.value.solution
    assert solution.objective < solution.start_objective
    assert list(solution.terms) == ["task", "proximity", "noise"]


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
    solution = initialize(small, large, (0.4, 0.3, 0.0, 0.3), (tokens, Y), solver=SOLVER)
    assert solution.objective < solution.start_objective
    assert torch.backends.mha.get_fastpath_enabled()


def test_hooks_on_the_backward_pass_are_kept_and_not_called():
    seen = []
    large = mlp(4, 5, 2)
    large[2].register_full_backward_hook(lambda *_: seen.append(1))
    solution = initialize(mlp(4, 3, 2), large, CENTRE, (X, Y), solver=SOLVER)
    assert not seen
    solution.student(X).sum().backward()
    assert seen
