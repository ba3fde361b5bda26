"""Layers on vectors with another option than the teacher's: the map refuses another function, or says so."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.growth.pairs import Held, listed, of_width, outcome

CHANGED = {
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
    "a float32 number": (lambda x: x.tanh() * 0.1, lambda x: x.tanh() * float(torch.tensor(0.1))),
    "a float32 slope": (nn.LeakyReLU(0.1), nn.LeakyReLU(float(torch.tensor(0.1)))),
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
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "widths"), listed(CHANGED, slow=12))
def test_another_option_is_refused_or_remarked(old, new, widths):
    said = outcome("vector", old, new, widths)
    assert said.startswith(("refused", "remarked")), said


KEPT = {
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
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "widths"), listed(KEPT, slow=8))
def test_the_same_option_written_otherwise_keeps_the_function(old, new, widths):
    assert outcome("vector", old, new, widths) == "exact"
