"""A layer with another option than the teacher's computes another function: the map refuses it or says so."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phiopt.growth import AlignmentError, GrowthMap, compare, grow
from tests.growth.nets import randomised

ROUNDING = 1e-9
INPUTS = {
    "vector": torch.Size((5, 6)),
    "image": torch.Size((3, 6, 9, 9)),
    "steps": torch.Size((3, 5, 6)),
}


class Net(nn.Module):
    """A first layer of ``width`` units, what a case makes of them, and a head."""

    def __init__(self, kind: str, made, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Conv2d(6, width, 3, padding=1) if kind == "image" else nn.Linear(6, width)
        self.made = made(width) if getattr(made, "of_width", False) else made
        self.head = nn.LazyLinear(3)
        self.double()(torch.zeros(INPUTS[kind], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        h = self.made(self.first(x))
        return self.head(h.mean((2, 3)) if h.ndim == 4 else h)


def of_width(make):
    """A part that is built for the width of the layer before it."""
    make.of_width = True
    return make


def outcome(kind, old, new, widths=(8, 8), fill="zero-out"):
    """What the map says: refused, remarked, or whether the function is kept."""
    x = torch.randn(INPUTS[kind], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    teacher, student = (
        randomised(Net(kind, f, w), seed).eval()
        for seed, (f, w) in enumerate(zip((old, new), widths, strict=True))
    )
    try:
        growth = GrowthMap.between(teacher, student, inputs=x)
    except AlignmentError as error:
        return f"refused: {error}"
    if growth.remarks:
        return f"remarked: {'; '.join(growth.remarks)}"
    change = compare(teacher, grow(teacher, student, fill, map=growth), growth, inputs=x)
    return "exact" if change.max_rel < ROUNDING else f"silent: {change}"


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, 4)).transpose(1, 2)


def attention(**options):
    """Attention of the units to themselves, in heads of four."""
    return lambda x: (
        F.scaled_dot_product_attention(*3 * [heads(x)], **options).transpose(1, 2).flatten(2)
    )


def mask(value=-9.0):
    return torch.zeros(5, 5).double().masked_fill(torch.ones(5, 5).triu(1).bool(), value)


def ramp(*shape, end=1.0):
    return torch.linspace(0, end, math.prod(shape)).double().view(shape)


def thrice(x: Tensor) -> Tensor:
    return x.unsqueeze(1).expand(-1, 3, -1, -1).cumsum(1)


def resampled(corners: bool):
    """Pixels at the points of a grid that is a constant."""

    def sample(x):
        whole = torch.eye(2, 3).double().expand(len(x), -1, -1)
        return F.grid_sample(x, F.affine_grid(whole, x.shape, False), align_corners=corners)

    return sample


class Recurrent(nn.Module):
    def __init__(self, layer, reverse=False):
        super().__init__()
        self.layer, self.reverse = layer, reverse

    def forward(self, x):
        return self.layer(x.flip(1) if self.reverse else x)[0]


def recurrent(kind, reverse=False, **options):
    return of_width(lambda w: Recurrent(kind(w, w, batch_first=True, **options), reverse))


def table(**options):
    """A table of positions, read at whole numbers made of the units' own order."""

    class Positions(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.table = nn.Embedding(5, width, **options)

        def forward(self, x):
            return x + self.table(torch.arange(5))

    return of_width(Positions)


def pool(name, *args, **options):
    return lambda x: getattr(F, name)(x, *args, **options)


class Held(nn.Module):
    """A constant as an attribute, which is no buffer."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x + self.value


CHANGED = {
    "vector": {
        "a tiny eps": (
            of_width(lambda w: nn.BatchNorm1d(w, 1e-12)),
            of_width(lambda w: nn.BatchNorm1d(w, 1e-11)),
        ),
        "LayerNorm eps": (of_width(lambda w: nn.LayerNorm(w, 1e-12)), of_width(lambda w: nn.LayerNorm(w, 1e-1))),
        "BatchNorm eps": (of_width(lambda w: nn.BatchNorm1d(w)), of_width(lambda w: nn.BatchNorm1d(w, 1e-1))),
        "RMSNorm eps": (of_width(lambda w: nn.RMSNorm(w, 1e-6)), of_width(lambda w: nn.RMSNorm(w, 1e-1))),
        "GELU": (nn.GELU(), nn.GELU("tanh")),
        "LeakyReLU": (nn.LeakyReLU(0.01), nn.LeakyReLU(0.2)),
        "ELU": (nn.ELU(1.0), nn.ELU(0.5)),
        "CELU": (nn.CELU(1.0), nn.CELU(0.5)),
        "Softplus beta": (nn.Softplus(1), nn.Softplus(3)),
        "Softplus threshold": (nn.Softplus(1, 20), nn.Softplus(1, 0.1)),
        "Softshrink": (nn.Softshrink(0.5), nn.Softshrink(0.1)),
        "Hardshrink": (nn.Hardshrink(0.5), nn.Hardshrink(0.1)),
        "Hardtanh": (nn.Hardtanh(-1, 1), nn.Hardtanh(0, 6)),
        "Threshold": (nn.Threshold(0.1, 0.0), nn.Threshold(0.1, 2.0)),
        "Softmax or LogSoftmax": (nn.Softmax(-1), nn.LogSoftmax(-1)),
        "clamp": (lambda x: x.clamp(max=1), lambda x: x.clamp(max=2)),
        "clamp min or max": (lambda x: x.clamp(max=1), lambda x: x.clamp(min=-1)),
        "clamp to tensors": (lambda x: x.clamp(max=torch.tensor(1.0)), lambda x: x.clamp(max=torch.tensor(2.0))),
        "pow": (lambda x: x.pow(2), lambda x: x.pow(3)),
        "pow of a number": (lambda x: 2.0**x, lambda x: 3.0**x),
        "pow to a tensor": (lambda x: x ** torch.tensor(2), lambda x: x**3),
        "plus a number": (lambda x: x + 1, lambda x: x + 2),
        "plus a tensor": (lambda x: x + 1, lambda x: x + torch.tensor(2.0)),
        "alpha of a sum": (lambda x: torch.add(x, x.sin(), alpha=2), lambda x: torch.add(x, x.sin(), alpha=3)),
        "scalar - x": (lambda x: 1 - x, lambda x: 2 - x),
        "tensor - x": (lambda x: torch.tensor(1.0) - x, lambda x: 2 - x),
        "number / x": (lambda x: 1 / (x * x + 1), lambda x: 3 / (x * x + 1)),
        "times, twice read": (lambda x: x + (x * 2).sin(), lambda x: x + (x * 3).sin()),
        "times after tanh": (lambda x: x.tanh() * 2, lambda x: x.tanh() * 3),
        "rounding": (
            lambda x: torch.div(x, 0.5, rounding_mode="floor"),
            lambda x: torch.div(x, 0.5, rounding_mode="trunc"),
        ),
        "rounded to": (lambda x: x.round(decimals=0), lambda x: x.round(decimals=1)),
        "cast": (lambda x: x.double(), lambda x: x.long().double()),
        "cast to truth": (lambda x: x.long().double(), lambda x: x.bool().double()),
        "remainder": (lambda x: x.remainder(1.0), lambda x: x.remainder(2.0)),
        "compared with": (lambda x: x * (x > 0), lambda x: x * (x > 0.5)),
        "compared how": (lambda x: x * (x > 0), lambda x: x * (x < 0)),
        "masked_fill value": (lambda x: x.masked_fill(x > 0, 0.0), lambda x: x.masked_fill(x > 0, 1.0)),
        "where value": (lambda x: torch.where(x > 0, x, 0.0), lambda x: torch.where(x > 0, x, 1.0)),
        "where which": (lambda x: torch.where(x > 0, x, -x), lambda x: torch.where(x > 0, -x, x)),
        "nan_to_num": (lambda x: x.log().nan_to_num(0.0), lambda x: x.log().nan_to_num(1.0)),
        "lerp": (lambda x: torch.lerp(x, x.sin(), 0.5), lambda x: torch.lerp(x, x.sin(), 0.1)),
        "addcmul value": (
            lambda x: torch.addcmul(x, x.sin(), x.cos(), value=1.0),
            lambda x: torch.addcmul(x, x.sin(), x.cos(), value=3.0),
        ),
        "logit eps": (lambda x: x.sigmoid().logit(1e-6), lambda x: x.sigmoid().logit(0.3)),
        "order of a difference": (lambda x: x.sin() - x.cos(), lambda x: x.cos() - x.sin()),
        "dropout in use": (lambda x: F.dropout(x, 0.1, training=True), lambda x: F.dropout(x, 0.9, training=True)),
        "feature alpha dropout": (lambda x: F.threshold(x, 0.0, 0.0), lambda x: F.threshold(x, 0.3, 0.0)),
        "constant attribute": (Held(torch.tensor(1.0)), Held(torch.tensor(3.0))),
        "normalize p": (lambda x: F.normalize(x, 2, 1), lambda x: F.normalize(x, 1, 1)),
        "normalize eps": (lambda x: F.normalize(x, 2, 1), lambda x: F.normalize(x, 2, 1, eps=9.0)),
        "sort descending": (lambda x: x.sort(-1).values, lambda x: x.sort(-1, descending=True).values),
        "topk largest": (lambda x: x.topk(3, -1).values, lambda x: x.topk(3, -1, largest=False).values),
        "topk k": (lambda x: x.topk(3, -1).values.mean(-1, True), lambda x: x.topk(4, -1).values.mean(-1, True)),
        "kthvalue": (lambda x: x.kthvalue(1, -1, True).values, lambda x: x.kthvalue(3, -1, True).values),
        "quantile": (
            lambda x: x.quantile(0.5, -1, keepdim=True),
            lambda x: x.quantile(0.1, -1, keepdim=True),
        ),
        "correction": (lambda x: x / x.var(0, correction=1), lambda x: x / x.var(0, correction=0)),
        "logsumexp or sum": (lambda x: x.logsumexp(-1, True), lambda x: x.sum(-1, True)),
    },
    "steps": {
        "softmax dim": (lambda x: x.softmax(-2), lambda x: x.softmax(-1)),
        "log_softmax dim": (lambda x: x.log_softmax(-2), lambda x: x.log_softmax(-1)),
        "causal": (attention(), attention(is_causal=True)),
        "attention mask": (attention(), attention(attn_mask=mask())),
        "another mask": (attention(attn_mask=mask(-1.0)), attention(attn_mask=mask(-2.0))),
        "mask by truth": (
            attention(attn_mask=torch.ones(5, 5).tril().bool()),
            attention(attn_mask=torch.ones(5, 5).tril(1).bool()),
        ),
        "attention scale": (attention(), attention(scale=2.0)),
        "two scales": (attention(scale=1.0), attention(scale=3.0)),
        "roll": (lambda x: x.roll(1, 1), lambda x: x.roll(2, 1)),
        "roll along": (lambda x: x.roll(1, 1), lambda x: x.roll(1, 0)),
        "flip along": (lambda x: x.flip(1), lambda x: x.flip(0)),
        "flip twice": (lambda x: x.flip(1), lambda x: x.flip(0, 1)),
        "which step": (lambda x: x[:, -1:], lambda x: x[:, :1]),
        "select": (lambda x: x[:, -1], lambda x: x[:, 0]),
        "select one of three": (lambda x: thrice(x)[:, 2], lambda x: thrice(x)[:, 0]),
        "slice step": (lambda x: x[:, ::2], lambda x: x[:, ::3]),
        "slice start": (lambda x: x[:, :3], lambda x: x[:, 2:]),
        "narrow": (lambda x: x.narrow(1, 0, 3), lambda x: x.narrow(1, 1, 3)),
        "index": (lambda x: x[:, [0, 2, 1]], lambda x: x[:, [0, 1, 2]]),
        "index_select": (
            lambda x: x.index_select(1, torch.tensor([0, 1])),
            lambda x: x.index_select(1, torch.tensor([3, 1])),
        ),
        "gather": (
            lambda x: x.gather(1, torch.zeros(len(x), 1, x.shape[2], dtype=torch.long)),
            lambda x: x.gather(1, torch.ones(len(x), 1, x.shape[2], dtype=torch.long)),
        ),
        "unbind": (lambda x: x.unbind(1)[0], lambda x: x.unbind(1)[1]),
        "chunk": (lambda x: x.split([2, 3], 1)[0], lambda x: x.split([2, 3], 1)[1][:, :2]),
        "std": (lambda x: x / x.std(1, keepdim=True), lambda x: x / x.std(1, keepdim=True, unbiased=False)),
        "norm p": (lambda x: F.normalize(x, p=2, dim=1), lambda x: F.normalize(x, p=1, dim=1)),
        "mean or sum": (lambda x: x.mean(1), lambda x: x.sum(1)),
        "amax or amin": (lambda x: x.amax(1), lambda x: x.amin(1)),
        "mean dim": (lambda x: x.mean(1, True), lambda x: x.mean(0, True)),
        "cumsum dim": (lambda x: x.cumsum(1), lambda x: x.cumsum(0)),
        "cumsum backwards": (lambda x: x.cumsum(1), lambda x: x.flip(1).cumsum(1).flip(1)),
        "diff": (lambda x: x.diff(dim=1), lambda x: x.diff(n=2, dim=1)),
        "sort dim": (lambda x: x.sort(1).values, lambda x: x.sort(0).values),
        "argmax": (lambda x: x * x.argmax(1, True), lambda x: x * x.argmin(1, True)),
        "permuted": (lambda x: x.permute(1, 0, 2), lambda x: x.permute(0, 1, 2)),
        "einsum": (
            lambda x: torch.einsum("btc,bsc->bts", x.sin(), x.cos()),
            lambda x: torch.einsum("btc,bsc->bst", x.sin(), x.cos()),
        ),
        "tril": (lambda x: x @ x.mT.tril(), lambda x: x @ x.mT.tril(1)),
        "roll all": (
            lambda x: x.flatten(1).roll(0, 1).view_as(x),
            lambda x: x.flatten(1).roll(x.shape[-1], 1).view_as(x),
        ),
        "linspace": (lambda x: x + ramp(5, 1), lambda x: x + ramp(5, 1, end=9.0)),
        "arange": (lambda x: x + torch.arange(5)[:, None], lambda x: x + torch.arange(4, -1, -1)[:, None]),
        "eye": (lambda x: torch.eye(5).double() @ x, lambda x: torch.eye(5).double().flip(0) @ x),
        "full": (lambda x: x + torch.full((5, 1), 1.0), lambda x: x + torch.full((5, 1), 2.0)),
        "ones_like": (lambda x: x + torch.ones_like(x), lambda x: x + torch.zeros_like(x)),
        "where mask": (
            lambda x: torch.where(torch.arange(5)[:, None] > 1, x, 0.0),
            lambda x: torch.where(torch.arange(5)[:, None] > 2, x, 0.0),
        ),
        "masked_fill mask": (
            lambda x: x.masked_fill(torch.arange(5)[:, None] > 1, 0.0),
            lambda x: x.masked_fill(torch.arange(5)[:, None] > 2, 0.0),
        ),
        "constant beside": (Held(ramp(5, 1)), Held(ramp(5, 1, end=3.0))),
        "constant joined": (
            lambda x: torch.cat([x, torch.zeros(len(x), 1, x.shape[2])], 1),
            lambda x: torch.cat([x, torch.ones(len(x), 1, x.shape[2])], 1),
        ),
        "RNN nonlinearity": (recurrent(nn.RNN), recurrent(nn.RNN, nonlinearity="relu")),
        "GRU or LSTM": (recurrent(nn.GRU), recurrent(nn.LSTM)),
        "LSTM layers": (recurrent(nn.LSTM), recurrent(nn.LSTM, num_layers=2)),
        "GRU backwards": (recurrent(nn.GRU), recurrent(nn.GRU, reverse=True)),
        "embedding max_norm": (table(), table(max_norm=0.1)),
        "embedding other max_norm": (table(max_norm=1.0), table(max_norm=0.1)),
        "embedding norm_type": (table(max_norm=0.1), table(max_norm=0.1, norm_type=1.0)),
        "avg_pool1d": (
            lambda x: F.avg_pool1d(x.mT, 3, 1, 1).mT,
            lambda x: F.avg_pool1d(x.mT, 3, 1, 1, count_include_pad=False).mT,
        ),
        "lp_pool": (lambda x: F.lp_pool1d(x.mT, 2, 2).mT, lambda x: F.lp_pool1d(x.mT, 3, 2).mT),
        "interpolate": (
            lambda x: F.interpolate(x.mT, 7, mode="linear").mT,
            lambda x: F.interpolate(x.mT, 7, mode="linear", align_corners=True).mT,
        ),
        "pad": (lambda x: F.pad(x, (0, 0, 1, 0)), lambda x: F.pad(x, (0, 0, 0, 1))),
        "cropped": (lambda x: F.pad(x, (0, 0, -1, 0)), lambda x: F.pad(x, (0, 0, 0, -1))),
        "unfold": (lambda x: x.unfold(1, 3, 1).mean(-1), lambda x: x.unfold(1, 3, 1).amax(-1)),
        "FFT norm": (
            lambda x: torch.fft.fft(x, dim=1, norm="ortho").real,
            lambda x: torch.fft.fft(x, dim=1, norm="forward").real,
        ),
        "swapped": (lambda x: (x @ x.mT).softmax(-1), lambda x: (x @ x.mT).mT.softmax(-1).mT),
    },
    "image": {
        "GroupNorm groups": (of_width(lambda w: nn.GroupNorm(2, w)), of_width(lambda w: nn.GroupNorm(4, w))),
        "GroupNorm eps": (of_width(lambda w: nn.GroupNorm(w, w)), of_width(lambda w: nn.GroupNorm(w, w, 0.1))),
        "InstanceNorm eps": (F.instance_norm, lambda x: F.instance_norm(x, eps=0.1)),
        "BatchNorm training": (
            of_width(lambda w: nn.BatchNorm2d(w)),
            of_width(lambda w: nn.BatchNorm2d(w, track_running_stats=False)),
        ),
        "LocalResponseNorm": (nn.LocalResponseNorm(3), nn.LocalResponseNorm(3, alpha=0.5)),
        "padding mode": (
            of_width(lambda w: nn.Conv2d(w, w, 3, padding=1)),
            of_width(lambda w: nn.Conv2d(w, w, 3, padding=1, padding_mode="circular")),
        ),
        "reflect or replicate": (
            of_width(lambda w: nn.Conv2d(w, w, 3, padding=1, padding_mode="reflect")),
            of_width(lambda w: nn.Conv2d(w, w, 3, padding=1, padding_mode="replicate")),
        ),
        "reflect margins": (nn.ReflectionPad2d((1, 0, 1, 0)), nn.ReflectionPad2d((0, 1, 0, 1))),
        "pad value": (nn.ConstantPad2d(1, 0.0), nn.ConstantPad2d(1, 1.0)),
        "dilation": (
            of_width(lambda w: nn.Conv2d(w, w, 3, padding=1)),
            of_width(lambda w: nn.Conv2d(w, w, 3, padding=2, dilation=2)),
        ),
        "stride and padding of a convolution": (
            of_width(lambda w: nn.Conv2d(w, w, 3, 4, padding=1)),
            of_width(lambda w: nn.Conv2d(w, w, 3, 4, padding=0)),
        ),
        "convolution groups": (
            of_width(lambda w: nn.Conv2d(w, w, 3, groups=2)),
            of_width(lambda w: nn.Conv2d(w, w, 3, groups=4)),
        ),
        "output_padding": (
            of_width(lambda w: nn.ConvTranspose2d(w, w, 3, 2, padding=1, output_padding=1)),
            of_width(lambda w: nn.ConvTranspose2d(w, w, 3, 2, padding=0, output_padding=0)),
        ),
        "max or average pool": (pool("max_pool2d", 3, 1, 1), pool("avg_pool2d", 3, 1, 1)),
        "adaptive max or average": (pool("adaptive_max_pool2d", 2), pool("adaptive_avg_pool2d", 2)),
        "adaptive size": (pool("adaptive_avg_pool2d", 2), pool("adaptive_avg_pool2d", 4)),
        "count_include_pad": (
            pool("avg_pool2d", 3, 1, 1),
            pool("avg_pool2d", 3, 1, 1, count_include_pad=False),
        ),
        "divisor_override": (pool("avg_pool2d", 3), pool("avg_pool2d", 3, divisor_override=2)),
        "pool kernel": (pool("max_pool2d", 3, 1, 1), pool("max_pool2d", 5, 1, 2)),
        "pool dilation": (pool("max_pool2d", 3, 1, 1), pool("max_pool2d", 3, 1, 1, dilation=2)),
        "pool padding": (pool("max_pool2d", 3, 4, 1), pool("max_pool2d", 3, 4, 0)),
        "ceil_mode": (pool("max_pool2d", 2, 2), pool("max_pool2d", 2, 2, ceil_mode=True)),
        "upsample": (nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear")),
        "bicubic": (
            nn.Upsample(scale_factor=2, mode="bicubic"),
            nn.Upsample(scale_factor=2, mode="bilinear"),
        ),
        "align_corners": (
            nn.Upsample(size=11, mode="bilinear"),
            nn.Upsample(size=11, mode="bilinear", align_corners=True),
        ),
        "antialias": (
            pool("interpolate", 5, mode="bilinear"),
            pool("interpolate", 5, mode="bilinear", antialias=True),
        ),
        "scale kept": (
            pool("interpolate", scale_factor=1.5, mode="bilinear"),
            pool("interpolate", scale_factor=1.5, mode="bilinear", recompute_scale_factor=True),
        ),
        "size of an interpolation": (pool("interpolate", 11), pool("interpolate", 13)),
        "pixel_shuffle": (pool("pixel_shuffle", 2), lambda x: F.interpolate(x[:, :2], scale_factor=2)),
        "softmax dim": (lambda x: x.softmax(2), lambda x: x.softmax(3)),
        "transposed": (lambda x: x.softmax(2) ** 2, lambda x: x.mT.softmax(2) ** 2),
        "axes of a norm over pixels": (
            lambda x: F.layer_norm(x, (9,)),
            lambda x: F.layer_norm(x, (9, 9)),
        ),
        "align_corners of a grid": (resampled(False), resampled(True)),
    },
}  # fmt: skip


def listed(cases, slow):
    """Each pair at equal widths and at a larger student's; one of the two takes part in the slow run only."""
    return [
        pytest.param(
            kind,
            *pair,
            (8, width),
            id=f"{kind}: {name}, 8 to {width}",
            marks=[pytest.mark.slow] if width == slow else [],
        )
        for kind, pairs in cases.items()
        for name, pair in pairs.items()
        for width in (8, 12)
    ]


@pytest.mark.parametrize(("kind", "old", "new", "widths"), listed(CHANGED, slow=12))
def test_another_option_is_refused_or_remarked(kind, old, new, widths):
    said = outcome(kind, old, new, widths)
    assert said.startswith(("refused", "remarked")), said


KEPT = {
    "vector": {
        "slope to seven digits": (nn.LeakyReLU(0.1), nn.LeakyReLU(0.1 + 1e-12)),
        "momentum": (of_width(lambda w: nn.BatchNorm1d(w)), of_width(lambda w: nn.BatchNorm1d(w, momentum=0.9))),
        "axis from either end": (lambda x: x - x.mean(0, True), lambda x: x - x.mean(-2, True)),
        "a number as a tensor": (lambda x: x * 2, lambda x: x * torch.tensor(2.0)),
        "a tensor as a number": (lambda x: torch.tensor([2.0]) * x, lambda x: x * 2),
        "a sum with a number": (lambda x: x + 1, lambda x: torch.tensor(1.0) + x),
        "a difference from a number": (lambda x: 1 - x, lambda x: torch.tensor(1.0) - x),
        "whole and other numbers": (lambda x: x.clamp(0, 1), lambda x: x.clamp(0.0, 1.0)),
        "power as a tensor": (lambda x: x**2, lambda x: x ** torch.tensor(2.0)),
        "where as a tensor": (
            lambda x: torch.where(x > 0, x, 0.5),
            lambda x: torch.where(x > 0, x, torch.tensor(0.5)),
        ),
        "masked_fill as a tensor": (
            lambda x: x.masked_fill(x > 0, 0.5),
            lambda x: x.masked_fill(x > 0, torch.tensor(0.5)),
        ),
        "a factor that the weights take up": (lambda x: x * 2, lambda x: x * 3),
        "a divisor that the weights take up": (lambda x: x / 2, lambda x: x / 3),
        "dropout in evaluation": (nn.Dropout(0.1), nn.Dropout(0.9)),
        "in place": (nn.ReLU(), nn.ReLU(inplace=True)),
        "cast there and back": (lambda x: x.double(), lambda x: x.to(torch.float64)),
        "default of a correction": (lambda x: x / x.var(0), lambda x: x / x.var(0, correction=1)),
        "constants of the width": (lambda x: x + torch.ones(x.shape[1]), lambda x: x + torch.ones(x.shape[1])),
        "zeros_like": (lambda x: x.maximum(torch.zeros_like(x)), lambda x: x.maximum(x.new_zeros(x.shape))),
    },
    "steps": {
        "causal": (attention(is_causal=True), attention(is_causal=True)),
        "mask": (attention(attn_mask=mask()), attention(attn_mask=mask())),
        "mask made otherwise": (attention(attn_mask=mask(-9.0)), attention(attn_mask=-9 * mask(1.0))),
        "scale as it is by default": (attention(), attention(scale=0.5)),
        "softmax from either end": (lambda x: x.softmax(1), lambda x: x.softmax(-2)),
        "roll around": (lambda x: x.roll(1, 1), lambda x: x.roll(-4, -2)),
        "flip": (lambda x: x.flip(0, 1), lambda x: x.flip(1, 0)),
        "select from either end": (lambda x: x[:, -1], lambda x: x[:, 4]),
        "slice from either end": (lambda x: x[:, -2:], lambda x: x[:, 3:5]),
        "index as a list": (lambda x: x[:, [0, 2]], lambda x: x[:, torch.tensor([0, -3])]),
        "permuted from either end": (lambda x: x.permute(0, 2, 1).mean(-1), lambda x: x.permute(-3, -1, -2).mean(2)),
        "cumsum": (lambda x: x.cumsum(1), lambda x: x.cumsum(-2)),
        "unbiased": (lambda x: x / x.std(1, keepdim=True), lambda x: x / x.std(-2, keepdim=True, correction=1)),
        "linspace": (lambda x: x + ramp(5, 1), lambda x: x + torch.arange(5)[:, None] / 4),
        "positions in a table": (table(), table(sparse=True, scale_grad_by_freq=True)),
        "padding_idx stops gradients": (table(), table(padding_idx=0)),
        "GRU": (recurrent(nn.GRU), recurrent(nn.GRU, dropout=0.0)),
        "stride by default": (lambda x: F.avg_pool1d(x.mT, 2).mT, lambda x: F.avg_pool1d(x.mT, [2], [2]).mT),
        "pad": (lambda x: F.pad(x, (0, 0, 1, 0)), lambda x: F.pad(x, (0, 0, 1, 0), value=0.0)),
    },
    "image": {
        "groups of a size": (of_width(lambda w: nn.GroupNorm(w // 4, w)), of_width(lambda w: nn.GroupNorm(w // 4, w))),
        "convolution groups of a size": (
            of_width(lambda w: nn.Conv2d(w, w, 3, groups=w // 4)),
            of_width(lambda w: nn.Conv2d(w, w, 3, groups=w // 4)),
        ),
        "depthwise": (
            of_width(lambda w: nn.Conv2d(w, w, 3, groups=w)),
            of_width(lambda w: nn.Conv2d(w, w, 3, groups=w)),
        ),
        "a larger kernel, padded": (
            of_width(lambda w: nn.Conv2d(w, w, 3, padding=1)),
            of_width(lambda w: nn.Conv2d(w, w, 5, padding=2)),
        ),
        "adaptive": (pool("adaptive_avg_pool2d", 3), pool("adaptive_avg_pool2d", (3, 3))),
        "pool stride by default": (pool("max_pool2d", 3), pool("max_pool2d", (3, 3), 3)),
        "upsample by size or factor": (nn.Upsample(size=18), nn.Upsample(scale_factor=2)),
        "corners": (
            nn.Upsample(size=18, mode="bilinear", align_corners=True),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        ),
        "reflect": (nn.ReflectionPad2d(1), nn.ReflectionPad2d((1, 1, 1, 1))),
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "old", "new", "widths"), listed(KEPT, slow=8))
def test_the_same_option_written_otherwise_keeps_the_function(kind, old, new, widths):
    assert outcome(kind, old, new, widths) == "exact"
