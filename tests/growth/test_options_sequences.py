"""Layers on sequences with another option than the teacher's: the map refuses another function, or says so."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.growth.pairs import (
    Held,
    attention,
    listed,
    mask,
    outcome,
    ramp,
    recurrent,
    table,
    thrice,
)

CHANGED = {
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
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "widths"), listed(CHANGED, slow=12))
def test_another_option_is_refused_or_remarked(old, new, widths):
    said = outcome("steps", old, new, widths)
    assert said.startswith(("refused", "remarked")), said


KEPT = {
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
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "widths"), listed(KEPT, slow=8))
def test_the_same_option_written_otherwise_keeps_the_function(old, new, widths):
    assert outcome("steps", old, new, widths) == "exact"
