"""A map saved and loaded is the same map, for the same models only."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from phiopt import _files
from phiopt import lift as lifts
from phiopt._modules import state_of
from phiopt.growth import GrowthMap, grow


def net(hidden, classes, *, channels=1, depth=1):
    layers = [nn.Conv2d(channels, hidden, 3), nn.BatchNorm2d(hidden), nn.Flatten()]
    layers += [nn.Linear(16 * hidden, 16 * hidden) for _ in range(depth)]
    return nn.Sequential(*layers, nn.Linear(16 * hidden, classes))


def state(module):
    return {name: value.detach() for name, value in state_of(module).items()}


@pytest.fixture
def pair():
    """A wider, deeper student with more channels and its classes moved, so that no axis is plain."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher, student = net(2, 3), net(4, 5, channels=3, depth=2)
    x = torch.zeros(2, 1, 6, 6)
    growth = GrowthMap.between(
        teacher, student, classes=[4, 0, 2], inputs=x, lift=lifts.Channels(3, "place", at=1)
    )
    return teacher, student, growth


def test_a_loaded_map_is_the_saved_one(pair, tmp_path):
    teacher, student, growth = pair
    growth.save(tmp_path / "map.safetensors")
    loaded = GrowthMap.load(tmp_path / "map.safetensors", teacher, student)
    assert str(loaded) == str(growth)
    assert loaded.lift == growth.lift
    assert loaded.inserted == growth.inserted != ()
    assert torch.equal(loaded.classes, growth.classes)
    assert torch.equal(loaded.example(), growth.example())
    u, w = state(teacher), state(student)
    ours, theirs = growth.embed(u, into=w), loaded.embed(u, into=w)
    assert all(torch.equal(ours[name], theirs[name]) for name in w)
    mask = growth.mask()
    assert all(torch.equal(mask[name], there) for name, there in loaded.mask().items())
    default = [grow(teacher, student, "default", map=m) for m in (growth, loaded)]
    a, b = (state(m) for m in default)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_loaded_map_refuses_fills_that_need_the_trace(pair, tmp_path):
    teacher, student, growth = pair
    growth.save(tmp_path / "map.safetensors")
    loaded = GrowthMap.load(tmp_path / "map.safetensors", teacher, student)
    with pytest.raises(ValueError, match=r"needs GrowthMap\.between"):
        grow(teacher, student, "zero-out", map=loaded)


def test_the_names_in_the_file_stay_those_of_format_1(pair, tmp_path):
    """Attributes may be renamed; maps that were saved before are read all the same."""
    _, _, growth = pair
    path = tmp_path / "map.safetensors"
    growth.save(path)
    _, header = _files.read(path, "growth map")
    assert header.value["version"] == 1
    assert header.value.keys() == {
        "kind", "version", "lift", "class_axis", "remarks", "inserted", "fresh", "example", "placements",
    }  # fmt: skip
    for placement in header.value["placements"].values():
        assert placement.keys() == {"student", "shape", "teacher_shape", "contracted"}


@pytest.mark.parametrize(
    "lift",
    [
        lifts.Identity(),
        lifts.Pad((8, 8), "center", value=0.5),
        lifts.Resize((7, 9), "nearest"),
        lifts.Compose(lifts.Channels(3), lifts.Pad((8, 8))),
    ],
    ids=repr,
)
def test_every_lift_of_the_library_comes_back(lift, pair, tmp_path):
    teacher, student, growth = pair
    growth.lift = lift
    growth.save(tmp_path / "map.safetensors")
    assert repr(GrowthMap.load(tmp_path / "map.safetensors", teacher, student).lift) == repr(lift)


def test_a_plain_callable_has_to_be_given_again(pair, tmp_path):
    teacher, student, growth = pair
    path = tmp_path / "map.safetensors"
    growth.save(path)
    with pytest.raises(ValueError, match=r"lift=.* has its own"):
        GrowthMap.load(path, teacher, student, lift=abs)
    growth.lift = abs
    growth.save(path)
    with pytest.raises(ValueError, match=r"lift=None: .* needs it"):
        GrowthMap.load(path, teacher, student)
    assert GrowthMap.load(path, teacher, student, lift=abs).lift is abs


def test_other_models_are_refused_and_the_difference_named(pair, tmp_path):
    teacher, student, growth = pair
    path = tmp_path / "map.safetensors"
    growth.save(path)
    with pytest.raises(ValueError, match=r"teacher's 0\.weight is \(3, 1, 3, 3\), not \(2, 1, 3"):
        GrowthMap.load(path, net(3, 3), student)
    with pytest.raises(ValueError, match=r"student lacks 5\.weight \(5, 64\)"):
        GrowthMap.load(path, teacher, net(4, 5, channels=3))
    with pytest.raises(ValueError, match=r"student has 6\.weight too"):
        GrowthMap.load(path, teacher, net(4, 5, channels=3, depth=3))


def test_other_files_are_refused(pair, tmp_path):
    teacher, student, _ = pair
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="holds something else, not a growth map"):
        GrowthMap.load(path, teacher, student)
    path.write_text("no tensors here")
    with pytest.raises(ValueError, match="is no safetensors file"):
        GrowthMap.load(path, teacher, student)


def test_an_interrupted_save_leaves_the_old_file(pair, tmp_path, monkeypatch):
    teacher, student, growth = pair
    path = tmp_path / "map.safetensors"
    growth.save(path)

    def cut_short(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", cut_short)
    growth.inexact_reasons = ("changed",)
    with pytest.raises(KeyboardInterrupt):
        growth.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["map.safetensors"]
    assert GrowthMap.load(path, teacher, student).inexact_reasons != ("changed",)
