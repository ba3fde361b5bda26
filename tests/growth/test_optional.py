"""A parameter that only one of both models has starts as what does nothing, or is refused by name."""

import pytest
import torch
from torch import Tensor, nn

from phiopt.growth import AlignmentError, GrowthMap, compare, grow
from tests.growth.nets import randomised

FILLS = ["zero", "uniform", "default", "zero-out", "net2wider", "vv-zz"]
FLAT, IMAGE, SEQUENCE = (torch.zeros(5, *shape) for shape in ((6,), (6, 6, 6), (4, 6)))


class Recurrent(nn.Module):
    def __init__(self, kind, width: int, has: bool) -> None:
        super().__init__()
        self.core, self.head = kind(6, width, bias=has, batch_first=True), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.core(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self, width: int, has: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, width), nn.Linear(width, 3)
        self.core = nn.MultiheadAttention(width, width // 4, bias=has, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(self.core(h, h, h, need_weights=False)[0].mean(1))


class Scaled(nn.Module):
    """A branch whose result a vector multiplies, divides or is added to."""

    def __init__(self, width: int, has: bool, how: str) -> None:
        super().__init__()
        self.stem, self.branch = nn.Linear(6, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 3)
        self.own = nn.Parameter(torch.full((width,), 0.5)) if has else None
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        z = self.branch(h).tanh()
        return self.head(h + (z if self.own is None else getattr(torch, self.how)(z, self.own)))


def conv(width: int, layer: nn.Module, norm: nn.Module) -> nn.Module:
    return nn.Sequential(
        layer, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)
    )


def flat(width: int, layer: nn.Module, norm: nn.Module) -> nn.Module:
    return nn.Sequential(layer, norm, nn.Linear(width, 3))


LAYERS = {
    "linear": (lambda n, has: flat(n, nn.Linear(6, n, bias=has), nn.Tanh()), FLAT, "0.bias"),
    "linear on a sequence": (
        lambda n, has: flat(n, nn.Linear(6, n, bias=has), nn.Tanh()), SEQUENCE, "0.bias"
    ),
    "head": (
        lambda n, has: nn.Sequential(nn.Linear(6, n), nn.Tanh(), nn.Linear(n, 3, bias=has)),
        FLAT, "2.bias",
    ),
    "convolution": (
        lambda n, has: conv(n, nn.Conv2d(6, n, 3, bias=has), nn.BatchNorm2d(n)), IMAGE, "0.bias"
    ),
    "transposed": (
        lambda n, has: conv(n, nn.ConvTranspose2d(6, n, 3, bias=has), nn.Tanh()), IMAGE, "0.bias"
    ),
    "batch norm": (
        lambda n, has: conv(n, nn.Conv2d(6, n, 3), nn.BatchNorm2d(n, affine=has)), IMAGE, "1.weight"
    ),
    "group norm": (
        lambda n, has: conv(n, nn.Conv2d(6, n, 3), nn.GroupNorm(n // 2, n, affine=has)),
        IMAGE, "1.weight",
    ),
    "instance norm": (
        lambda n, has: conv(n, nn.Conv2d(6, n, 3), nn.InstanceNorm2d(n, affine=has)),
        IMAGE, "1.weight",
    ),
    "rms norm": (
        lambda n, has: flat(n, nn.Linear(6, n), nn.RMSNorm(n, elementwise_affine=has)),
        FLAT, "1.weight",
    ),
    "lstm": (lambda n, has: Recurrent(nn.LSTM, n, has), SEQUENCE, "core.bias_"),
    "gru": (lambda n, has: Recurrent(nn.GRU, n, has), SEQUENCE, "core.bias_"),
    "attention": (Attention, SEQUENCE, "core.in_proj_bias"),
    **{f"vector, {how}": (lambda n, has, how=how: Scaled(n, has, how), FLAT, "own")
       for how in ("mul", "div", "add", "sub")},
}  # fmt: skip
PRESERVING = ["zero-out", "net2wider", "vv-zz"]


def pair(name: str, *, teacher: bool, student: bool, wide: int):
    make, x, lost = LAYERS[name]
    models = randomised(make(8, teacher).double(), 0), randomised(make(wide, student).double(), 1)
    return *models, x.double(), lost


@pytest.mark.parametrize("wide", [pytest.param(8, marks=pytest.mark.slow), 12])
@pytest.mark.parametrize("name", LAYERS)
def test_what_only_the_student_has_starts_as_nothing(name, wide):
    teacher, student, x, added = pair(name, teacher=False, student=True, wide=wide)
    growth = GrowthMap.between(teacher, student, inputs=x)
    new = [n for n in growth.fresh if n.startswith(added)]
    assert new
    assert not any(growth.mask()[n].any() for n in new)
    for fill in PRESERVING:
        grown = grow(teacher, student, fill, map=growth)
        assert growth.inexact_reasons or compare(teacher, grown, growth).exact
        assert all(len(grown.get_parameter(n).unique()) == 1 for n in new)


@pytest.mark.parametrize("fill", FILLS)
def test_every_fill_has_it_do_nothing(fill):
    teacher, student, x, _ = pair("convolution", teacher=False, student=True, wide=8)
    growth = GrowthMap.between(teacher, student, inputs=x)
    assert compare(teacher, grow(teacher, student, fill, map=growth), growth).exact


@pytest.mark.parametrize("wide", [8, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LAYERS)
def test_what_only_the_teacher_has_is_refused_by_name_unless_it_does_nothing(name, wide):
    teacher, student, x, lost = pair(name, teacher=True, student=False, wide=wide)
    with pytest.raises(AlignmentError, match=rf"the teacher's '{lost}.* Build the student's"):
        GrowthMap.between(teacher, student, inputs=x)
    without = dict(pair(name, teacher=False, student=False, wide=8)[0].named_parameters())
    with torch.no_grad():
        for own, value in teacher.named_parameters():
            if own not in without:
                value.fill_(float("weight" in own or name in ("vector, mul", "vector, div")))
    growth = GrowthMap.between(teacher, student, inputs=x)
    for fill in PRESERVING:
        assert (
            growth.inexact_reasons
            or compare(teacher, grow(teacher, student, fill, map=growth), growth).exact
        )


def test_a_new_weight_takes_up_what_a_wider_norm_changes():
    def net(width: int, has: bool) -> nn.Module:
        return flat(width, nn.Linear(6, width), nn.LayerNorm(width, elementwise_affine=has))

    teacher, student = randomised(net(8, False).double(), 0), randomised(net(12, True).double(), 1)
    growth = GrowthMap.between(teacher, student, inputs=FLAT.double())
    grown = grow(teacher, student, "zero-out", map=growth)
    assert compare(teacher, grown, growth).max_rel < 1e-3
    assert grown[1].weight.allclose(torch.full((12,), (8 / 12) ** 0.5).double())


def test_a_map_with_such_a_parameter_is_saved(tmp_path):
    teacher, student, x, _ = pair("batch norm", teacher=False, student=True, wide=12)
    growth = GrowthMap.between(teacher, student, inputs=x)
    growth.save(tmp_path / "map.safetensors")
    loaded = GrowthMap.load(tmp_path / "map.safetensors", teacher, student)
    assert loaded.inserted == growth.inserted
    grown = grow(teacher, student, "default", map=loaded)
    assert (grown[1].weight == 1).all()


def test_statistics_that_one_model_does_not_track_are_refused_by_name():
    tracked, loose = (
        conv(8, nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8, track_running_stats=on))
        for on in (True, False)
    )
    with pytest.raises(AlignmentError, match=r"running_mean=a tensor in the teacher but None"):
        GrowthMap.between(tracked, loose, inputs=IMAGE)
