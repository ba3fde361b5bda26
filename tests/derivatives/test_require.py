import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from phiopt import TorchOpt, initialize
from phiopt.derivatives.require import require_derivatives
from phiopt.objective import pure_model
from phiopt.objective.task import Task
from tests.cases import generator, parameters, randn


def required(module):
    module = module.double()
    x, y = randn(2, 4), torch.randint(3, (2,), generator=generator(1))
    task = Task(
        pure_model(module, lambda x: x), lambda o, t: F.cross_entropy(o, t, reduction="none"), x, y
    )
    require_derivatives(module, x, task, parameters(module))


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.last = function, nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.function(x))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class OnlyOnce(Square):
    """Under torch.func this decorator does not raise: the derivative of its result is left out."""

    backward = staticmethod(torch.autograd.function.once_differentiable(Square.backward))


class OldStyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3)),
        Calling(lambda x: F.dropout(x, 0.5)),  # forgets that it is being evaluated
        Calling(Square.apply),
        Calling(lambda x: F.alpha_dropout(x, 0.5, training=True)),
    ],
    ids=["norm", "dropout", "right backward", "alpha dropout"],
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
        (nn.Sequential(nn.Linear(4, 4), Calling(OnlyOnce.apply)), "backward of 1 disagrees"),
        (Calling(lambda x: x + torch.rand_like(x)), "two passes over one batch differ"),
        (
            Calling(lambda x: torch.native_layer_norm(x, (4,), None, None, 1e-5)[0]),
            "the module itself calls native_layer_norm, whose third derivative is wrong",
        ),
    ],
    ids=["raising", "checkpoint", "once", "random", "kernel"],
)
def test_what_cannot_is_named(module, message):
    with pytest.raises(TypeError, match=message):
        required(module)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_and_compiled_modules_are_refused():
    scripted = torch.jit.script(nn.Linear(4, 3))
    compiled = torch.compile(nn.Linear(4, 3))
    for module, kind in ((scripted, "RecursiveScriptModule"), (compiled, "OptimizedModule")):
        with pytest.raises(TypeError, match=f"student: 0 is a {kind}, must be a plain module"):
            require_derivatives(nn.Sequential(module), randn(2, 4), lambda w: w["w"].sum(), {})


def test_initialize_refuses_a_student_only_where_it_needs_the_derivative():
    teacher = nn.Sequential(nn.Linear(4, 4), Calling(OnlyOnce.apply)).double()
    student = nn.Sequential(nn.Linear(4, 4), Calling(OnlyOnce.apply)).double()
    data = randn(8, 4), torch.randint(3, (8,), generator=generator())
    solver = TorchOpt(steps=1, batch_size=4)
    with pytest.raises(TypeError, match="backward of 1 disagrees"):
        initialize(teacher, student, (0.3, 0.3, 0.2, 0.2), data, solver=solver)
    initialize(teacher, student, (0.4, 0.3, 0.3, 0), data, solver=solver, throw=False)
