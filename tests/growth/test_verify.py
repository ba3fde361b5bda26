"""A grown student is held against its teacher on numbers: what is right passes, what is wrong is named."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phiopt.growth import AlignmentError, GrowthMap, grow
from tests.growth.nets import KINDS, Attention, Decoder, Tagger, Wired, mlp, randomised

KEPT = ("zero-out", "net2wider", "vv-zz")


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Net(nn.Module):
    """A layer, the part in question, a smooth one and a head, on vectors, sequences or images."""

    def __init__(self, part, width: int, *, images: bool = False) -> None:
        super().__init__()
        self.images = images
        self.first = nn.Conv2d(2, width, 3) if images else nn.Linear(4, width)
        self.part = part if isinstance(part, nn.Module) else Function(part)
        self.smooth, self.head = nn.Tanh(), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.smooth(self.part(self.first(x)))
        return self.head(x.mean((2, 3)) if self.images else x)


VECTORS = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.randn(4, 5, 4, generator=torch.Generator().manual_seed(0))
TENTHS = torch.full((5, 1), 0.1)
IMAGES = torch.randn(4, 2, 9, 9, generator=torch.Generator().manual_seed(0))


def attention(**options):
    def attend(x):
        q = x.unflatten(-1, (-1, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(q, q, q, **options).transpose(1, 2).flatten(2)

    return lambda width: attend


def always(function):
    return lambda width: function


def unsaid(teacher, student, inputs, **options):
    """The map without its remarks, as if no rule had compared the options."""
    growth = GrowthMap.between(teacher, student, inputs=inputs, **options)
    growth.inexact_reasons = ()
    return growth


WRONG = {
    "layer norm eps": (lambda w: nn.LayerNorm(w), lambda w: nn.LayerNorm(w, 1e-6), VECTORS),
    "layer norm tiny eps": (
        lambda w: nn.LayerNorm(w, 1e-9),
        lambda w: nn.LayerNorm(w, 1e-12),
        VECTORS,
    ),
    "batch norm eps": (
        lambda w: nn.BatchNorm1d(w),
        lambda w: nn.BatchNorm1d(w, eps=1e-3),
        VECTORS,
    ),
    "gelu": (always(nn.GELU()), always(nn.GELU("tanh")), VECTORS),
    "leaky relu": (always(nn.LeakyReLU(0.01)), always(nn.LeakyReLU(0.02)), VECTORS),
    "elu": (always(nn.ELU(1.0)), always(nn.ELU(0.5)), VECTORS),
    "softplus": (always(nn.Softplus(1)), always(nn.Softplus(2)), VECTORS),
    "softplus threshold": (
        always(nn.Softplus(1, threshold=5)),
        always(nn.Softplus(1, threshold=10)),
        VECTORS,
    ),
    "high clamp": (
        always(lambda x: x.clamp(max=4)),
        always(lambda x: x.clamp(max=40)),
        VECTORS,
    ),
    "low clamp": (
        always(lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=0.5)),
        always(lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=0.2)),
        SEQUENCES,
    ),
    "relu6": (always(lambda x: x.clamp(0, 6)), always(lambda x: x.clamp(0, 60)), VECTORS),
    "power": (always(lambda x: x**2), always(lambda x: x**3), VECTORS),
    "factor": (
        always(lambda x: x.relu() * 2),
        always(lambda x: x.relu() * 2.0001),
        VECTORS,
    ),
    "added number": (always(lambda x: x + 0.1), always(lambda x: x + 0.2), VECTORS),
    "subtracted from": (always(lambda x: 1 - x), always(lambda x: 2 - x), VECTORS),
    "attention scale": (attention(), attention(scale=0.7), SEQUENCES),
    "mask": (
        attention(attn_mask=torch.zeros(5, 5)),
        attention(attn_mask=torch.arange(25.0).view(5, 5) / 25),
        SEQUENCES,
    ),
    "correction": (
        always(lambda x: x / x.std(1, keepdim=True)),
        always(lambda x: x / x.std(1, keepdim=True, correction=0)),
        SEQUENCES,
    ),
    "norm": (
        always(lambda x: F.normalize(x, p=2, dim=1)),
        always(lambda x: F.normalize(x, p=1, dim=1)),
        SEQUENCES,
    ),
    "constant": (
        always(lambda x: x + torch.linspace(0, 1, 5)[:, None]),
        always(lambda x: x + torch.linspace(0, 2, 5)[:, None]),
        SEQUENCES,
    ),
    "softmax temperature": (
        always(lambda x: (x.relu() / 2).softmax(1)),
        always(lambda x: (x.relu() / 3).softmax(1)),
        SEQUENCES,
    ),
    "pad value": (
        always(nn.ConstantPad2d(1, 0.0)),
        always(nn.ConstantPad2d(1, 1.0)),
        IMAGES,
    ),
    "count of padding": (
        always(nn.AvgPool2d(3, 1, 1)),
        always(nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        IMAGES,
    ),
    "aligned corners": (
        always(nn.Upsample(size=11, mode="bilinear")),
        always(nn.Upsample(size=11, mode="bilinear", align_corners=True)),
        IMAGES,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_option_is_an_error_that_names_the_module(name):
    old, new, inputs = WRONG[name]
    images = inputs.ndim == 4
    teacher = randomised(Net(old(8), 8, images=images))
    student = randomised(Net(new(16), 16, images=images), 1)
    growth = unsaid(teacher, student, inputs)
    with pytest.raises(AlignmentError, match="does not keep the function") as caught:
        grow(teacher, student, "net2wider", map=growth)
    text = str(caught.value)
    # A factor, eps or temperature may be said of the layer that was to make up for it.
    assert "'part' (" in text or "'first' (" in text
    assert "of the student" in text
    assert "of the teacher" in text
    assert "verify=False" in text
    grow(teacher, student, "net2wider", map=growth, verify=False)


RIGHT = {
    "mlp": (lambda: mlp(4, 8, 6, 3), lambda: mlp(4, 16, 9, 5), VECTORS),
    "one output": (lambda: mlp(4, 8, 1), lambda: mlp(4, 16, 1), VECTORS),
    "deep": (lambda: mlp(4, *[8] * 12, 3), lambda: mlp(4, *[12] * 12, 5), VECTORS),
    "deeper": (lambda: mlp(4, 8, 3), lambda: mlp(4, 12, 12, 12, 5), VECTORS),
    "no spread": (lambda: mlp(4, 8, 3), lambda: mlp(4, 12, 5), torch.zeros(2, 4)),
    "one example": (lambda: mlp(4, 8, 3), lambda: mlp(4, 12, 5), torch.ones(1, 4)),
    "large inputs": (lambda: mlp(4, 8, 3), lambda: mlp(4, 12, 5), 1e6 * VECTORS),
    "tiny inputs": (lambda: mlp(4, 8, 3), lambda: mlp(4, 12, 5), 1e-9 * VECTORS),
    "rnn": (lambda: Tagger(nn.RNN, 4, 3, 2), lambda: Tagger(nn.RNN, 4, 7, 3), SEQUENCES),
    "gru": (lambda: Tagger(nn.GRU, 4, 3, 2), lambda: Tagger(nn.GRU, 4, 7, 3), SEQUENCES),
    "lstm": (lambda: Tagger(nn.LSTM, 4, 3, 2), lambda: Tagger(nn.LSTM, 4, 7, 3), SEQUENCES),
    "attention": (
        lambda: Attention(8, 2, 12, 3),
        lambda: Attention(16, 4, 20, 4),
        torch.zeros(2, 4, 6),
    ),
    "decoder": (
        lambda: Decoder(8, 4, 2, 12),
        lambda: Decoder(16, 8, 4, 20),
        torch.arange(10).view(2, 5),
    ),
    "tied tokens": (
        lambda: Decoder(8, 4, 2, 12),
        lambda: Decoder(16, 4, 2, 12, vocabulary=13),
        torch.zeros(2, 5, dtype=torch.long),
    ),
    "rounded inside": (
        lambda: Net(lambda x: x.float().sin(), 8),
        lambda: Net(lambda x: x.float().sin(), 16),
        VECTORS,
    ),
    "halved inside": (
        lambda: Net(lambda x: x.bfloat16().sin().float(), 8),
        lambda: Net(lambda x: x.bfloat16().sin().float(), 16),
        VECTORS,
    ),
    "float32 product inside": (
        lambda: Net(lambda x: torch.eye(5) @ x.float(), 8),
        lambda: Net(lambda x: torch.eye(5) @ x.float(), 16),
        SEQUENCES,
    ),
    "constants equal to their rounding": (
        lambda: Net(lambda x: x + TENTHS, 8),
        lambda: Net(lambda x: x + TENTHS.nextafter(torch.ones(())), 16),
        SEQUENCES,
    ),
    "only float32": (
        lambda: Net(lambda x: torch.eye(5) @ x, 8),
        lambda: Net(lambda x: torch.eye(5) @ x, 16),
        SEQUENCES,
    ),
    "chaos": (
        lambda: Net(lambda x: (1e4 * x).sin(), 8),
        lambda: Net(lambda x: (1e4 * x).sin(), 16),
        VECTORS,
    ),
    "steps": (
        lambda: Net(lambda x: (8 * x).round(), 8),
        lambda: Net(lambda x: (8 * x).round(), 16),
        VECTORS,
    ),
    "a causal mask": (
        lambda: Net(attention(is_causal=True)(8), 8),
        lambda: Net(attention(is_causal=True)(16), 16),
        SEQUENCES,
    ),
    "infinite": (
        lambda: Net(lambda x: torch.cat([x[:, :1] / 0, x[:, 1:]], 1).clamp(-1e30, 1e30), 8),
        lambda: Net(lambda x: torch.cat([x[:, :1] / 0, x[:, 1:]], 1).clamp(-1e30, 1e30), 16),
        SEQUENCES,
    ),
    "logarithms": (
        lambda: nn.Sequential(Function(torch.log), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)),
        lambda: nn.Sequential(Function(torch.log), nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)),
        VECTORS.abs() + 0.1,
    ),
    "inputs of a range": (
        lambda: nn.Sequential(Function(checked), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)),
        lambda: nn.Sequential(Function(checked), nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)),
        VECTORS.clamp(-1, 1),
    ),
}


def checked(x: Tensor) -> Tensor:
    if x.device.type != "meta" and x.abs().max() > 1:
        raise ValueError("inputs must lie between -1 and 1")
    return x


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_not_refused(name):
    old, new, inputs = RIGHT[name]
    teacher, student = randomised(old()), randomised(new(), 1)
    growth = unsaid(teacher, student, inputs)
    grow(teacher, student, "net2wider", map=growth)  # without a warning


@pytest.mark.slow
@pytest.mark.parametrize("fill", KEPT)
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_not_refused_by_any_fill_or_input(name, fill):
    old, new, inputs = RIGHT[name]
    for seed in range(5):
        teacher, student = randomised(old(), seed), randomised(new(), seed + 1)
        growth = unsaid(teacher, student, inputs)
        for given in (inputs, None):
            grow(teacher, student, fill, map=growth, inputs=given, seed=seed)


@pytest.mark.parametrize("kind", KINDS)
def test_wirings_are_not_refused(kind):
    teacher = randomised(Wired([kind], 4, 4, 3, flatten=True))
    student = randomised(Wired([kind], 8, 8, 5, flatten=True), 1)
    grow(teacher, student, "net2wider", inputs=torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("fill", KEPT)
def test_roundings_of_any_dtype_are_not_refused(dtype, fill):
    teacher, student = (randomised(mlp(16, h, h, 5), h).to(dtype) for h in (24, 40))
    grow(teacher, student, fill)


def test_a_half_precision_teacher_in_a_float_student():
    grow(randomised(mlp(4, 6, 6, 3)).half(), mlp(4, 9, 9, 3), "net2wider")


def test_half_precision_is_no_excuse():
    old, new, inputs = WRONG["layer norm eps"]
    teacher, student = randomised(Net(old(8), 8)), randomised(Net(new(16), 16))
    growth = unsaid(teacher.half(), student.half(), inputs.half())
    with pytest.raises(AlignmentError, match="native_layer_norm in 'part'"):
        grow(teacher, student, "zero-out", map=growth)
