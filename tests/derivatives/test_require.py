from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from phiopt import TorchOpt, initialize
from phiopt.derivatives.require import require_derivatives
from phiopt.objective import pure_model
from phiopt.objective.mean_loss import Task
from tests.cases import generator, parameters, randn
from tests.functions import Square, SquareOnce


def plain(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


def required(module, loss=plain):
    module = module.double()
    x, y = randn(2, 4), torch.randint(3, (2,), generator=generator(1))
    task = Task(pure_model(module, lambda x: x), loss, x, y)
    require_derivatives(module, x, task, parameters(module))


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.last = function, nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.function(x))


class OldStyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def still(x):
    with torch.no_grad():
        scale = x.square().mean(1, keepdim=True)
    return x / (1 + scale)


def scripted_norm(x):
    def norm(x: torch.Tensor):
        return torch.layer_norm(x, [4], None, None, 1e-5)

    return torch.jit.script(norm)(x)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)),
        Calling(lambda x: torch.ops.aten.layer_norm.default(x, [4])),
        Calling(lambda x: torch.ops.aten.batch_norm(x, *[None] * 4, True, 0.1, 1e-5, False)),
        nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3)),
        Calling(lambda x: F.dropout(x, 0.5)),  # forgets that it is being evaluated
        Calling(Square.apply),
        Calling(lambda x: F.alpha_dropout(x, 0.5, training=True)),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Calling(lambda x: x + (x > 0).detach())),
    ],
    ids=[
        "weight norm",
        "operator",
        "packet",
        "norm",
        "dropout",
        "right backward",
        "alpha dropout",
        "detached constant",
    ],
)
def test_what_can_be_mended_passes(module):
    required(module)


def test_dropout_leaves_the_global_generator_alone():
    module = Calling(lambda x: F.dropout(x, 0.5))
    state = torch.get_rng_state()
    required(module)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), Calling(OldStyle.apply))),
            r"student: 1\.1 has no third derivative",
        ),
        (
            Calling(lambda x: checkpoint(torch.tanh, x, use_reentrant=False)),
            "the module itself has no third derivative .*saved tensor hooks",
        ),
        (nn.Sequential(nn.Linear(4, 4), Calling(SquareOnce.apply)), "backward of 1 disagrees"),
        (
            nn.Sequential(nn.Linear(4, 4), Calling(lambda x: x * x.sigmoid().detach())),
            "backward of 1 disagrees .* cut by detach or torch.no_grad",
        ),
        (nn.Sequential(nn.Linear(4, 4), Calling(still)), "backward of 1 disagrees"),
        (
            nn.Sequential(nn.Linear(4, 4), Calling(lambda x: x * (1 + (x - x).norm()))),
            "1 has no third derivative .*NaN or infinite at the start, as that of a root",
        ),
        (Calling(lambda x: x + torch.rand_like(x)), "two passes over one batch differ"),
        (
            Calling(lambda x: torch.native_layer_norm(x, (4,), None, None, 1e-5)[0]),
            "the module itself calls native_layer_norm, whose third derivative is wrong",
        ),
        (
            nn.Sequential(
                nn.Linear(4, 4),
                Calling(
                    lambda x: torch.ops.aten.native_layer_norm.default(x, [4], None, None, 1e-5)[0]
                ),
            ),
            "1 calls native_layer_norm, whose third derivative is wrong",
        ),
        (
            nn.Sequential(nn.Linear(4, 4), Calling(scripted_norm)),
            "1 calls native_layer_norm, .* outside of TorchScript",
        ),
        (
            nn.Sequential(
                parametrizations.orthogonal(nn.Linear(4, 3), orthogonal_map="householder")
            ),
            "0.parametrizations.weight.0 makes its weight orthogonal by Householder reflections",
        ),
    ],
    ids=[
        "raising",
        "checkpoint",
        "once",
        "detached",
        "without gradient",
        "norm at zero",
        "random",
        "kernel",
        "operator",
        "script",
        "orthogonal",
    ],
)
def test_what_cannot_is_named(module, message):
    with pytest.raises(TypeError, match=message):
        required(module)


def test_gradients_of_embeddings_are_dense():
    tokens = torch.tensor([[0, 2], [2, 3]])
    for options in ({"sparse": True}, {"scale_grad_by_freq": True}):
        module = nn.Sequential(nn.Embedding(4, 3, **options), nn.Flatten(), nn.Linear(6, 3))
        module = module.double()
        task = Task(pure_model(module, lambda x: x), plain, tokens, torch.tensor([0, 2]))
        require_derivatives(module, tokens, task, parameters(module))
        dense = nn.Sequential(nn.Embedding.from_pretrained(module[0].weight), *module[1:])
        want = torch.func.grad(replace(task, model=pure_model(dense, lambda x: x)))
        gradients = torch.func.grad(task)(parameters(module))
        torch.testing.assert_close(gradients, want(parameters(module)))


def test_the_loss_is_looked_at_too():
    required(nn.Linear(4, 3), lambda o, t: Square.apply(o).sum(1))
    with pytest.raises(
        TypeError, match=r"loss: its backward .* derivative 2 does not hold .* written by hand"
    ):
        required(nn.Linear(4, 3), lambda o, t: SquareOnce.apply(o).sum(1))
    with pytest.raises(TypeError, match=r"loss: its backward .* cut by detach"):
        required(nn.Linear(4, 3), lambda o, t: (o * o.sigmoid().detach()).sum(1))
    with pytest.raises(TypeError, match="loss: calls native_layer_norm"):
        required(
            nn.Linear(4, 3),
            lambda o, t: torch.native_layer_norm(o, (3,), None, None, 1e-5)[0][:, 0] ** 2,
        )
    with pytest.raises(TypeError, match="its loss has no third derivative"):
        required(nn.Linear(4, 3), lambda o, t: F.multi_margin_loss(o, t, reduction="none"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_and_compiled_modules_are_refused():
    scripted = torch.jit.script(nn.Linear(4, 3))
    compiled = torch.compile(nn.Linear(4, 3))
    for module, kind, inner in (
        (scripted, "RecursiveScriptModule", "what was scripted"),
        (compiled, "OptimizedModule", "its _orig_mod"),
    ):
        with pytest.raises(TypeError, match=f"0 is a {kind}, must be a plain module, {inner}"):
            require_derivatives(nn.Sequential(module), randn(2, 4), None, {})


def test_initialize_refuses_a_student_only_where_it_needs_the_derivative():
    teacher = nn.Sequential(nn.Linear(4, 4), Calling(SquareOnce.apply)).double()
    student = nn.Sequential(nn.Linear(4, 4), Calling(SquareOnce.apply)).double()
    data = randn(8, 4), torch.randint(3, (8,), generator=generator())
    solver = TorchOpt(steps=1, batch_size=4)
    with pytest.raises(TypeError, match="backward of 1 disagrees"):
        initialize(teacher, student, (0.3, 0.3, 0.2, 0.2), data, solver=solver)
    initialize(teacher, student, (0.4, 0.3, 0.3, 0), data, solver=solver, throw=False)


def test_an_error_that_does_not_come_again_is_raised_as_it_is():
    """At whichever call of the loss: a disk that failed once is no missing derivative."""
    raised = []
    for number in range(12):
        calls = iter(range(100))

        def loss(outputs, targets, calls=calls, number=number):
            if next(calls) == number:
                raise RuntimeError("the disk")
            return plain(outputs, targets)

        try:
            required(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)), loss)
        except RuntimeError as error:
            raised.append(str(error))
    assert len(raised) >= 4
    assert set(raised) == {"the disk"}
