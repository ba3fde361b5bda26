"""Layers that one of the models has alone, or has otherwise: the map is exact, or names both modules in advance."""

import pytest
import torch
from torch import nn

from phiopt.growth import AlignmentError, GrowthMap, grow
from tests.growth.nets import mlp, randomised
from tests.growth.pairs import said


def inputs(*shape):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


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


class RescaledLayers(nn.Module):
    """Residual layers whose last weights the first forward pass divides in place."""

    def __init__(self, depth):
        super().__init__()
        self.first, self.last, self.done = nn.Linear(6, 4), nn.Linear(4, 3), False
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))

    def forward(self, x):
        if not self.done:
            with torch.no_grad():
                for i, layer in enumerate(self.layers):
                    layer.weight.div_(2**i)
            self.done = True
        x = self.first(x)
        for layer in self.layers:
            x = x + layer(x.relu())
        return self.last(x)


def test_new_layers_whose_weights_are_rescaled_are_closed():
    assert said(RescaledLayers(2), RescaledLayers(3), inputs(6)) == "exact"


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


class Heads(nn.Module):
    """Attention with packed queries, keys and values of ``heads`` heads, and a bias for each head and offset."""

    def __init__(self, width, heads, place):
        super().__init__()
        self.embed, self.packed = nn.Linear(4, width), nn.Linear(width, heads * 4 * place)
        self.bias, self.heads = nn.Parameter(torch.zeros(heads, 9)), heads
        self.sizes = [place, place, 2 * place]
        self.out, self.head = nn.Linear(heads * 2 * place, width), nn.Linear(width, 3)

    def forward(self, x):
        x = self.embed(x)
        q, k, v = (
            self.packed(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).split(self.sizes, -1)
        )
        offsets = torch.arange(5)[:, None] - torch.arange(5) + 4
        scores = (q @ k.mT * self.sizes[0] ** -0.5 + self.bias[:, offsets]).softmax(-1)
        return self.head(x + self.out((scores @ v).transpose(1, 2).flatten(2)))


def test_fewer_and_wider_heads_hold_all_weights_and_are_remarked():
    teacher, student = (
        randomised(Heads(*sizes).double(), seed)
        for seed, sizes in enumerate([(8, 4, 2), (12, 3, 4)])
    )
    growth = GrowthMap.between(teacher, student, inputs=inputs(5, 4))
    rows = growth.placements["packed.weight"].index_maps[0].reshape(4, 8)
    assert rows[0].tolist() == [0, 1, 4, 5, 8, 9, 10, 11]
    # The fourth head lies beside the first one: its queries, its keys and its values in the places that are left.
    assert rows[3].tolist() == [2, 3, 6, 7, 12, 13, 14, 15]
    assert len(set(rows.flatten().tolist())) == 32
    columns = growth.placements["out.weight"].index_maps[1].reshape(4, 4)
    assert columns[[0, 3]].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert any(
        "of 4 coordinates of an axis in 'the root module'" in x for x in growth.inexact_reasons
    )
    assert any(x.startswith("bias: of size 3 on axis 0, but") for x in growth.inexact_reasons)
    assert "bias" not in growth.placements
    for fill in ("zero-out", "net2wider", "vv-zz", "default"):
        grown = grow(teacher, student, fill, map=growth)
        assert grown(inputs(5, 4)).isfinite().all()


def test_an_output_of_fewer_coordinates_is_refused():
    class Windows(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.layer, self.size = nn.Linear(4, 4), size

        def forward(self, x):
            return self.layer(x).unflatten(1, (-1, self.size)).mean(2)

    with pytest.raises(
        AlignmentError, match="axis 1 of the output has size 4 in the teacher but 2"
    ):
        GrowthMap.between(Windows(2), Windows(4), inputs=torch.zeros(2, 8, 4))


class Root(nn.Module):
    """Two layers whose results are joined and read by a third one, to which the second result may be added."""

    def __init__(self, residual, width=4):
        super().__init__()
        self.stem, self.residual = nn.Conv2d(3, width, 1), residual
        self.layer, self.root = (
            nn.Conv2d(width, width, 1),
            nn.Conv2d(2 * width, width, 1, bias=False),
        )
        self.norm, self.head = nn.BatchNorm2d(width), nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.layer(x).relu()
        z = self.norm(self.root(torch.cat([x, y], 1)))
        return self.head((z + y if self.residual else z).relu().mean((2, 3)))


@pytest.mark.parametrize("width", [4, 6])
def test_what_the_student_adds_again_is_taken_off_the_columns_that_read_it(width, tmp_path):
    teacher, student = Root(False), Root(True, width)
    assert said(teacher, student, inputs(3, 5, 5)) == "exact"
    growth = GrowthMap.between(teacher, student, inputs=inputs(3, 5, 5))
    growth.save(tmp_path / "map")
    assert GrowthMap.load(tmp_path / "map", teacher, student).inserted == growth.inserted


def test_groups_that_read_fewer_channels_are_refused_with_both_numbers():
    teacher, student = (
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=groups)) for groups in (1, 4)
    )
    with pytest.raises(
        AlignmentError, match=r"'1' of the .*: 1 groups that read 8 .* 4 that read 2 "
    ):
        GrowthMap.between(teacher, student, inputs=inputs(3, 5, 5).float())
