"""Parts of models that people have, each in a small module: the map is exact, or says in advance why not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from phiopt import lift as lifts
from phiopt.growth import AlignmentError, GrowthMap, grow
from tests.growth.nets import mlp, randomised
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


class Rescaled(nn.Module):
    """A layer whose weight the first forward pass divides in place, as layers are rescaled for inference."""

    def __init__(self, width, done, by=4.0):
        super().__init__()
        self.first, self.last, self.done, self.by = (
            nn.Linear(6, width),
            nn.Linear(width, 3),
            done,
            by,
        )

    def forward(self, x):
        if not self.done:
            with torch.no_grad():
                self.last.weight.div_(self.by)
            self.done = True
        return self.last(self.first(x).relu())


@pytest.mark.parametrize("done", [(True, False), (False, True), (False, False)], ids=str)
@pytest.mark.parametrize("by", [1.0, 4.0])
def test_a_weight_that_one_model_has_rescaled_already_makes_up_for_it(done, by):
    models = [Rescaled(width, d, by).double() for width, d in zip((5, 8), done, strict=True)]
    teacher, student = (randomised(model, seed) for seed, model in enumerate(models))
    growth = GrowthMap.between(teacher, student, inputs=inputs(6))
    assert not growth.inexact_reasons
    grown = grow(teacher, student, "zero-out", map=growth)
    x = inputs(6)
    torch.testing.assert_close(grown(x), teacher(x), rtol=1e-9, atol=1e-9)


class Scales(nn.Module):
    """Pieces of the units go through one layer after the other; all results and the last piece are joined."""

    def __init__(self, pieces, width=3, more=0):
        super().__init__()
        self.width = width
        self.first = nn.Conv2d(3, pieces * width, 1)
        self.layers = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) for _ in range(pieces - 1)
        )
        self.last, self.head = nn.Conv2d(pieces * width, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        pieces = self.first(x).relu().split(self.width, 1)
        y, made = torch.zeros_like(pieces[0]), []
        for i, layer in enumerate(self.layers):
            y = layer(y + pieces[i] if i else pieces[i]).relu()
            made.append(y)
        return self.head(self.last(torch.cat([*made, pieces[-1]], 1)).relu().mean((2, 3)))


@pytest.mark.parametrize("fill", ["zero-out", pytest.param("net2wider", marks=pytest.mark.slow)])
@pytest.mark.parametrize("larger", [(5, 3), (6, 4)])
def test_more_pieces_are_new_branches_and_the_last_piece_stays_the_last(larger, fill):
    teacher, student = Scales(3).double(), Scales(*larger).double()
    growth = GrowthMap.between(teacher, student, inputs=inputs(3, 5, 5))
    pieces, width = larger
    last = growth.placements["first.weight"].index_maps[0][-3:]
    assert last.tolist() == [(pieces - 1) * width + i for i in range(3)]
    assert {n for n in growth.fresh if "layers.0" in n or "layers.1" in n} == set()
    assert said(teacher, student, inputs(3, 5, 5), fill) == "exact"


class Gated(nn.Module):
    """A stem, a layer with what may stand beside it, and a head: a gate, a layer of each channel, or a projection."""

    def __init__(self, width, gate=False, each=False, project=False, out=None):
        super().__init__()
        out = out or width
        self.stem, self.layer = nn.Conv2d(3, width, 3), nn.Conv2d(width, out, 3, padding=1)
        self.gate = Gate(out) if gate else None
        self.each = nn.Conv2d(width, width, 3, padding=1, groups=width) if each else None
        self.project = nn.Conv2d(width, out, 1) if project else None
        self.head, self.out = nn.Linear(out, 40), nn.Linear(40, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.layer(x if self.each is None else self.each(x))
        y = y if self.gate is None else self.gate(y)
        y = y + (x if self.project is None else self.project(x))
        return self.out(self.head(y.relu().mean((2, 3))).relu())


class Gate(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return x * self.layer(x.mean((2, 3), keepdim=True)).sigmoid()


@pytest.mark.parametrize(
    ("option", "module"), [("gate", "gate"), ("each", "each"), ("project", "project")]
)
def test_a_small_layer_that_the_student_lacks_is_left_out_with_a_word(option, module):
    teacher = randomised(
        Gated(8, **{option: True}, out=6 if option == "project" else None).double()
    )
    student = randomised(Gated(24).double(), 1)
    growth = GrowthMap.between(teacher, student, inputs=inputs(3, 7, 7))
    said_of = [x for x in growth.inexact_reasons if x.startswith(f"{module}: ")]
    assert len(said_of) == 1
    assert "the student has no such layer" in said_of[0]
    assert "Give the student the layer too" in said_of[0]
    assert {"stem.weight", "layer.weight", "head.weight"} <= growth.placements.keys()
    assert not any(name.startswith(f"{module}.") for name in growth.placements)
    grow(teacher, student, "zero-out", map=growth)


def test_a_large_layer_that_the_student_lacks_is_refused():
    with pytest.raises(AlignmentError, match=r"'2' has no counterpart in the student"):
        GrowthMap.between(mlp(4, 8, 8, 3), mlp(4, 40, 3))


class Narrow(nn.Module):
    """Layers that pass a stream on through fewer units: only as many as both models have are the identity."""

    def __init__(self, depth):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 6)) for _ in range(depth)
        )

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_new_layers_that_are_no_identity_are_named_with_both_modules():
    answer = said(Narrow(1), Narrow(3), inputs(4))
    assert answer.startswith("remarked")
    assert "layers.2.2: the student has layers here" in answer
    assert "the result of 'layers.0.2' in the teacher" in answer
    assert "correspondence=" in answer
