"""Parts of models that people have, each in a small module: the map is exact, or says in advance why not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from phiopt import lift as lifts
from phiopt.growth import GrowthMap
from tests.growth.nets import randomised
from tests.growth.pairs import said


def inputs(*shape):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class Mixed(nn.Module):
    """A residual layer that mixes tokens by ``mix``."""

    def __init__(self, width, inner, mix):
        super().__init__()
        self.embed, self.head = nn.Linear(4, width), nn.Linear(width, 3)
        self.up, self.down, self.mix = nn.Linear(width, inner), nn.Linear(inner, width), mix

    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.mix(self.down(self.up(x).relu())))


FOURIER = {
    "all frequencies": lambda x: torch.fft.fft(x, dim=1).real,
    "imaginary part": lambda x: torch.fft.fft(x, dim=1).imag,
    "both ways": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1), n=x.shape[1], dim=1),
    "complex": lambda x: torch.view_as_complex(torch.stack([x, 2 * x], -1)).abs(),
}


@pytest.mark.parametrize("mix", FOURIER.values(), ids=FOURIER)
def test_transforms_of_tokens_leave_units_alone(mix):
    assert said(Mixed(8, 8, mix), Mixed(12, 24, mix), inputs(7, 4)) == "exact"


def test_a_transform_of_units_that_grow_is_remarked():
    def mix(x):
        return torch.fft.fftn(x, dim=(1, 2)).real

    assert said(Mixed(8, 8, mix), Mixed(8, 24, mix), inputs(7, 4)) == "exact"
    answer = said(Mixed(8, 8, mix), Mixed(12, 8, mix), inputs(7, 4))
    assert answer.startswith("remarked: the root module: a Fourier transform over a widened axis")


class Patches(nn.Module):
    """Attention within patches that overlap: patches are taken, changed, and added where they lie."""

    def __init__(self, width):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, width, 1), nn.Linear(width, 3)
        self.score, self.values = nn.Linear(width, 9), nn.Conv2d(width, width, 1)

    def forward(self, x):
        x = self.stem(x)
        scores = self.score(x.permute(0, 2, 3, 1)).flatten(1, 2).softmax(-1)
        patches = F.unfold(self.values(x), 3, padding=1).unflatten(1, (-1, 9))
        mixed = (patches * scores.transpose(1, 2)[:, None]).flatten(1, 2)
        return self.head(F.fold(mixed, x.shape[2:], 3, padding=1).mean((2, 3)))


def test_patches_that_are_added_where_they_lie_keep_their_channels():
    assert said(Patches(4), Patches(6), inputs(3, 5, 5)) == "exact"


def test_patches_of_another_grid_are_remarked():
    teacher, student = (randomised(Patches(4).double(), seed) for seed in (0, 1))
    growth = GrowthMap.between(teacher, student, inputs=inputs(3, 4, 4), lift=lifts.Resize((8, 8)))
    assert any("im2col over positions that grow" in reason for reason in growth.inexact_reasons)


class Overlapping(nn.Module):
    """Attention of each token to those of two chunks that overlap, as strides of a tensor that is not contiguous."""

    def __init__(self, width, heads):
        super().__init__()
        self.embed, self.head = nn.Linear(4, width), nn.Linear(width, 3)
        self.keys, self.queries, self.heads = (
            nn.Linear(width, width),
            nn.Linear(width, width),
            heads,
        )

    def split(self, x):
        return x.transpose(0, 1).unflatten(-1, (self.heads, -1)).transpose(0, 1).transpose(1, 2)

    def forward(self, x):
        x = self.embed(x)
        chunks = self.split(self.keys(x)).unflatten(2, (-1, 4))
        *lead, count, length, width = chunks.shape
        steps = [*chunks.stride()[:2], chunks.stride(2) // 2, *chunks.stride()[3:]]
        keys = chunks.as_strided((*lead, 2 * count - 1, length, width), steps)
        scores = (self.split(self.queries(x))[:, :, None, :4] @ keys.mT).softmax(-1)
        marks = scores.new_zeros(*scores.shape[:2], 4, 4)
        marks[:, :, torch.tensor([0, 2])] = scores[:, :, 0, :2]
        mixed = (scores[:, :, 0] + marks) @ self.split(x)[:, :, :4]
        return self.head(mixed.transpose(1, 2).flatten(2))


def test_windows_in_memory_that_is_not_contiguous_follow_its_strides():
    assert said(Overlapping(8, 2), Overlapping(16, 4), inputs(8, 4)) == "exact"
    assert said(Overlapping(8, 2), Overlapping(12, 3), inputs(8, 4)) == "exact"


class Masked(nn.Module):
    """Attention in windows of four tokens, with a mask on the scores or without one."""

    def __init__(self, width, masked):
        super().__init__()
        self.embed, self.head, self.masked = nn.Linear(4, width), nn.Linear(width, 3), masked
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        x = self.embed(x)
        windows = x.unflatten(1, (-1, 4))
        scores = windows @ windows.mT
        if self.masked:
            scores = scores + torch.zeros(4, 4).double().fill_diagonal_(-5.0)
        return self.head(x + self.layer((scores.softmax(-1) @ windows).flatten(1, 2)))


def test_a_mask_that_only_the_student_has_is_remarked_and_not_refused():
    answer = said(Masked(8, False), Masked(8, True), inputs(8, 4))
    assert answer.startswith("remarked")
    assert "a constant that the teacher does not have" in answer
    assert said(Masked(8, True), Masked(8, True), inputs(8, 4)) == "exact"


class Relative(nn.Module):
    """Attention by position. Weights have three axes: unit, head, place. Those of positions read sinusoids."""

    def __init__(self, width, heads, place=4):
        super().__init__()
        self.embed, self.norm = nn.Linear(4, width), nn.LayerNorm(width)
        self.queries, self.keys, self.places, self.out = (
            nn.Parameter(torch.zeros(width, heads, place)) for _ in range(4)
        )
        self.bias, self.head = nn.Parameter(torch.zeros(heads, place)), nn.Linear(width, 3)

    def forward(self, x):
        x = self.embed(x)
        steps = torch.arange(0, x.shape[-1], 2).double() / x.shape[-1]
        turns = torch.arange(x.shape[1]).double()[:, None] / 10.0**steps
        sinusoids = torch.cat([turns.sin(), turns.cos()], -1)
        q, k = (torch.einsum("bih,hnd->bind", x, w) for w in (self.queries, self.keys))
        r = torch.einsum("jh,hnd->jnd", sinusoids, self.places)
        scores = torch.einsum("bind,bjnd->bnij", q + self.bias, k)
        scores = (scores + torch.einsum("bind,jnd->bnij", q - self.bias, r)).softmax(-1)
        y = torch.einsum("bnij,bjnd->bind", scores, k)
        return self.head(self.norm(x + torch.einsum("bind,hnd->bih", y, self.out)))


@pytest.mark.parametrize("fill", ["zero-out", pytest.param("net2wider", marks=pytest.mark.slow)])
def test_weights_with_an_axis_for_heads_read_units_and_make_none(fill):
    assert said(Relative(8, 2), Relative(16, 4), inputs(5, 4), fill) == "exact"
