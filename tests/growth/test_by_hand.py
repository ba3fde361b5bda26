"""A map used by hand: on state dictionaries with tied names, pickled, given back to `grow`, or on models with state."""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import Tensor, nn

from phiopt import lift as lifts
from phiopt.growth import AlignmentError, GrowthMap, compare, grow
from tests.growth.nets import mlp, randomised, state


class Tied(nn.Module):
    def __init__(self, width: int, *, tied: bool = True) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(5, width), nn.Linear(width, 5, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.table(tokens).tanh())


class Stack(nn.Module):
    def __init__(self, width: int, *, shared: bool) -> None:
        super().__init__()
        block = nn.Linear(width, width)
        self.stem = nn.Linear(4, width)
        self.blocks = nn.ModuleList([block, block if shared else nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x).relu()
        return x


TOKENS = torch.arange(8).reshape(2, 4) % 5


def tied_map():
    teacher, student = randomised(Tied(4), 0), randomised(Tied(6), 1)
    return teacher, student, GrowthMap.between(teacher, student, inputs=TOKENS)


def test_a_tied_checkpoint_is_moved_under_all_its_names():
    teacher, student, growth = tied_map()
    moved = growth.embed(teacher.state_dict(), into=student.state_dict())
    assert moved.keys() == student.state_dict().keys()
    assert torch.equal(moved["head.weight"], moved["table.weight"])
    student.load_state_dict(moved)
    assert torch.equal(growth.extract(student.state_dict())["table.weight"], teacher.table.weight)
    second = {"head.weight": teacher.head.weight.detach()}
    by_second = growth.embed(second, into={"head.weight": student.head.weight.detach()})
    assert torch.equal(by_second["head.weight"], moved["head.weight"])
    assert torch.equal(growth.extract(by_second)["table.weight"], teacher.table.weight)


def test_tied_names_with_other_values_are_refused():
    teacher, student, growth = tied_map()
    u = teacher.state_dict() | {"head.weight": torch.zeros(5, 4)}
    with pytest.raises(ValueError, match=r"u\['head.weight'\] differs from u\['table.weight'\]"):
        growth.embed(u, into=student.state_dict())


def test_a_loaded_map_knows_tied_names(tmp_path):
    teacher, student, growth = tied_map()
    growth.save(tmp_path / "map.safetensors")
    loaded = GrowthMap.load(tmp_path / "map.safetensors", teacher, student)
    moved = loaded.embed(teacher.state_dict(), into=student.state_dict())
    assert torch.equal(moved["head.weight"], moved["table.weight"])


@pytest.mark.parametrize("width", [4, 6])
def test_what_only_one_model_shares_is_refused_with_the_remedy(width):
    x = torch.zeros(2, 4)
    for shared in (
        lambda a: GrowthMap.between(Tied(4, tied=a), Tied(width, tied=not a), inputs=TOKENS),
        lambda a: GrowthMap.between(Stack(4, shared=a), Stack(width, shared=not a), inputs=x),
    ):
        with pytest.raises(AlignmentError, match="Share it in the student too"):
            shared(True)
        with pytest.raises(AlignmentError, match="Untie it in the student"):
            shared(False)


@pytest.mark.parametrize(
    ("w", "error", "message"),
    [
        ({"0.weight": torch.zeros(13, 4)}, ValueError, r"w\['0.weight'\] has shape \(13, 4\)"),
        ({"nothing": torch.zeros(1)}, ValueError, "w has 'nothing', which the student lacks"),
        ({"0.bias": 3.0}, TypeError, r"w\['0.bias'\]: got 3.0, must be a Tensor"),
        (None, TypeError, "w: got None, must be a dictionary"),
    ],
)
def test_extract_names_what_is_not_the_students(w, error, message):
    growth = GrowthMap.between(mlp(4, 8, 3), mlp(4, 12, 3))
    with pytest.raises(error, match=message):
        growth.extract(w)


def test_embed_takes_tensors_only():
    growth = GrowthMap.between(mlp(4, 8, 3), mlp(4, 12, 3))
    with pytest.raises(TypeError, match=r"u\['0.bias'\]: got 3, must be a Tensor"):
        growth.embed({"0.bias": 3}, into=state(mlp(4, 12, 3)))
    with pytest.raises(TypeError, match=r"into\['0.bias'\]: got None, must be a Tensor"):
        growth.embed({}, into={"0.bias": None})


def saved(growth):
    file = io.BytesIO()
    torch.save(growth, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved],
    ids=["deepcopy", "pickle", "torch.save"],
)  # fmt: skip
def test_a_copied_map_is_the_same_map(copied):
    def net(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(36 * width, 3)
        )

    teacher, student = randomised(net(4).double(), 0), randomised(net(6).double(), 1)
    growth = GrowthMap.between(teacher, student, inputs=torch.zeros(2, 1, 8, 8).double())
    again = copied(growth)
    assert str(again) == str(growth)
    one, other = (grow(teacher, student, "net2wider", map=m) for m in (growth, again))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert compare(teacher, other, again).exact


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        (mlp(4, 8, 3), mlp(4, 16, 3), r"student's 0.weight is \(16, 4\), not \(12, 4\)"),
        (mlp(4, 9, 3), mlp(4, 12, 3), r"teacher's 0.weight is \(9, 4\), not \(8, 4\)"),
        (mlp(4, 8, 3), mlp(4, 12, 3, 3), "student has 4.weight too"),
        (mlp(4, 8), mlp(4, 12, 3), r"teacher lacks 2.weight \(3, 8\)"),
    ],
)
def test_a_map_of_other_models_is_refused(teacher, student, message):
    growth = GrowthMap.between(mlp(4, 8, 3), mlp(4, 12, 3))
    with pytest.raises(ValueError, match=rf"map= belongs to other models: .*{message}"):
        grow(teacher, student, map=growth)


def test_what_contradicts_a_map_is_refused():
    teacher, student = mlp(4, 8, 3), mlp(4, 12, 5)
    growth = GrowthMap.between(teacher, student, classes=[2, 0, 1])
    with pytest.raises(ValueError, match=r"lift=.* contradicts map="):
        grow(teacher, student, map=growth, lift=lambda x: 2 * x)
    with pytest.raises(ValueError, match=r"classes=\[0, 1, 2\] contradict map="):
        grow(teacher, student, map=growth, classes=[0, 1, 2])
    grow(teacher, student, map=growth, lift=lifts.Identity(), classes=[2, 0, 1])


@pytest.mark.parametrize("thing", [threading.Lock, lambda: (i for i in ())])
def test_what_cannot_be_copied_is_named(thing):
    teacher, student = mlp(4, 8, 3), mlp(4, 12, 3)
    kept = thing()
    student[0].kept = kept
    message = r"student: Sequential cannot be copied: its attribute 0.kept is a .*; keep such an object outside"
    with pytest.raises(TypeError, match=message):
        grow(teacher, student)
    teacher[0].kept, student = kept, mlp(4, 12, 3)
    GrowthMap.between(teacher, student)


def test_hooks_are_not_run_while_the_map_is_derived():
    teacher, student, ran = mlp(4, 8, 3), mlp(4, 12, 3), []
    for net in (teacher, student):
        net.register_forward_hook(lambda *_: ran.append("after"))
        net[0].register_forward_pre_hook(lambda *_: ran.append("before"))
    GrowthMap.between(teacher, student)
    assert not ran
    teacher(torch.zeros(1, 4))
    assert ran == ["before", "after"]


def test_hooks_of_pytorch_compute_weights():
    teacher, student = (nn.utils.spectral_norm(nn.Linear(4, n)) for n in (3, 5))
    growth = GrowthMap.between(teacher, student, inputs=torch.zeros(2, 4))
    assert "weight_orig" in growth.placements
