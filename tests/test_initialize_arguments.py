"""Arguments that break their rule are named, before any work."""

import pytest
import torch
import torchopt
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from phiopt.initialize import initialize
from phiopt.objective import Gaussian, Spectral
from phiopt.solve import TorchOpt
from tests.cases import parameters, randn
from tests.solutions import BARE, CROSS_ENTROPY, QUARTERS, X, Y, solved, student, teacher


def broken(module):
    with torch.no_grad():
        next(module.parameters())[0] = torch.nan
    return module


class Constant(nn.Sequential):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


@torch.inference_mode()
def inferring():
    return teacher()


def frozen(module):
    return module.requires_grad_(False)


class Packed(nn.Module):
    """An LSTM that packs its sequences, which no transform of PyTorch's goes through."""

    def __init__(self, width, classes):
        super().__init__()
        self.lstm = nn.LSTM(4, width, batch_first=True, dtype=torch.float64)
        self.head = nn.Linear(width, classes, dtype=torch.float64)

    def forward(self, x):
        lengths = torch.full((len(x),), x.shape[1], device="cpu")
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.head(self.lstm(packed)[1][0][-1])


SEQUENCES = randn(40, 3, 4, seed=5)


def counting(module):
    """With a buffer that is not materialised."""
    module.register_buffer("count", torch.zeros(1, device="meta"))
    return module


class Precise(Gaussian):
    float32_reason = "the wavelets need float32"


BFLOAT16 = {"teacher": teacher().bfloat16(), "student": student().bfloat16()}


BAD = {
    "off the simplex": ({"lambdas": (0.5, 0.5, 0.5, 0.5)}, ValueError, "lambdas: got"),
    "no proximity": ({"lambdas": (1, 0, 0, 0)}, ValueError, "lambdas.proximity: got 0"),
    "no data": ({"data": None}, ValueError, "data: None, but the weight of task, noise, curv"),
    "data": ({"data": (X / 0, Y)}, ValueError, "inputs hold NaN"),
    "empty": ({"data": DataLoader(TensorDataset(X[:0], Y[:0]))}, ValueError, "loader is empty"),
    "labels": ({"data": (X, Y + 1)}, ValueError, "labels from 1 to 2"),
    "targets": ({"data": (X, X)}, TypeError, "must be integer class indices"),
    "teacher": ({"teacher": None}, TypeError, "teacher: got None, must be an nn.Module"),
    "inference": ({"teacher": inferring()}, ValueError, "teacher: 0.weight was made under torch.i"),
    "broken teacher": ({"teacher": broken(teacher())}, ValueError, "teacher: 0.weight holds NaN"),
    "broken student": ({"student": broken(student())}, ValueError, "student: 0.weight holds NaN"),
    "dtypes": ({"teacher": teacher().float()}, ValueError, "teacher: 0.weight is torch.float32"),
    "devices": ({"student": student().to("meta")}, ValueError, "on meta"),
    "frozen": ({"student": frozen(student())}, ValueError, "none of its parameters requires grad"),
    "a buffer": ({"student": counting(student())}, ValueError, "student: count is on meta, must"),
    "lazy buffer": (
        {"teacher": nn.Sequential(nn.LazyBatchNorm1d(affine=False), *teacher())},
        ValueError,
        "teacher: 0.running_mean is not initialised yet",
    ),
    "float16": (
        {"teacher": teacher().half(), "student": student().half()},
        ValueError,
        "teacher: 0.weight is torch.float16, must be float32, float64 or bfloat16",
    ),
    "wrapped": ({"student": nn.DataParallel(student())}, TypeError, "pass student.module"),
    "columns": ({"data": (X, Y[:, None])}, ValueError, r"2 targets .*\(2, 1\), must have \(2,\)"),
    "packed": (
        {
            "teacher": Packed(3, 2),
            "student": Packed(4, 3),
            "data": (SEQUENCES, Y),
            "lambdas": (0.5, 0.5, 0, 0),
        },
        TypeError,
        "student: torch.func cannot differentiate its forward pass.*: Cannot access",
    ),
    "packed, with curvature": (
        {"teacher": Packed(3, 2), "student": Packed(4, 3), "data": (SEQUENCES, Y)},
        TypeError,
        "student: lstm has no third derivative",
    ),
    "whole inputs": (
        {"data": (X.long(), Y), "lambdas": (0.5, 0.5, 0, 0)},
        ValueError,
        r"student: its forward pass fails on .* torch.int64 of shape \(2, 4\)",
    ),
    "no classes": (BARE | {"data": (X, Y)}, ValueError, "outputs have one axis or none"),
    "no classes to restrict": (
        BARE | {"loss": lambda o, y: (o - y) ** 2, "restrict_classes": True},
        ValueError,
        "outputs have one axis or none",
    ),
    "complex targets": (
        {"data": (X, Y.to(torch.complex64))},
        TypeError,
        "targets are torch.complex",
    ),
    "too large": (
        {"teacher": teacher().float(), "student": student().float(), "data": (1e300 * X, Y)},
        ValueError,
        r"data: inputs up to 3\.12e\+300 do not fit into torch.float32",
    ),
    "spectral in bfloat16": (
        BFLOAT16 | {"curvature": Spectral()},
        TypeError,
        "curvature: Spectral's Lanczos method needs float32",
    ),
    "sobol in bfloat16": (
        BFLOAT16 | {"neighbourhood": Gaussian(0.1, samples=2, sampling="sobol")},
        TypeError,
        "neighbourhood: Sobol points need float32",
    ),
    "what needs digits by its own word, in bfloat16": (
        BFLOAT16 | {"neighbourhood": Precise(0.1)},
        TypeError,
        "neighbourhood: the wavelets need float32 models, got bfloat16",
    ),
    "a dictionary": ({"lambdas": {"task": 0.5, "proximity": 0.5}}, TypeError, r"Lambdas\(\*\*it\)"),
    "a number for losses": (
        {"loss": lambda o, y: 1.0},
        TypeError,
        "loss: returned float, must give",
    ),
    "no losses": ({"loss": lambda o, y: None}, TypeError, "loss: returned NoneType, must give"),
    "whole losses": ({"loss": lambda o, y: y}, TypeError, "loss: returned torch.int64, must give"),
    "huge seed": ({"seed": 2**70}, ValueError, r"seed: got \d+, must be below 2\*\*63"),
    "process_group": ({"process_group": 5}, TypeError, "process_group: got 5, must be a group"),
    "lazy": ({"student": nn.LazyLinear(3)}, ValueError, "student: weight is not initialised yet"),
    "scale": ({"scale": "raw"}, ValueError, "scale: got 'raw'"),
    "seed": ({"seed": -1}, ValueError, "seed: got -1"),
    "seed kind": ({"seed": "a"}, TypeError, "seed: got 'a'"),
    "restarts": ({"restarts": -1}, ValueError, "restarts: got -1"),
    "restarts kind": ({"restarts": 1.5}, TypeError, "restarts: got 1.5"),
    "solver": ({"solver": torchopt.adam(1e-3)}, TypeError, "solver: got"),
    "neighbourhood": ({"neighbourhood": 0.1}, TypeError, "neighbourhood: got 0.1"),
    "curvature": ({"curvature": "frobenius"}, TypeError, "curvature: got 'frobenius'"),
    "loss": ({"loss": "l1"}, TypeError, "loss: got 'l1'"),
    "a class": ({"solver": TorchOpt}, TypeError, "solver: got the class TorchOpt, must be an inst"),
    "flat loss": ({"loss": lambda o, _: o.argmax(1).double()}, ValueError, "loss: has no derivat"),
    "no gradient": ({"student": Constant(student())}, ValueError, "loss: has no derivative"),
    "relabelled": (
        {"data": (X, Y - 1), "classes": [2, 0], "loss": CROSS_ENTROPY},
        ValueError,
        "loss: fails on .*: Target -1 is out of bounds",
    ),
    "start": ({"start": 3}, TypeError, "start: got 3"),
    "start lacks": ({"start": {}}, ValueError, "start: lacks 0.weight, 0.bias, 2.weight, 2.bias"),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_named_before_any_work(changes, error, message):
    arguments = {"teacher": teacher(), "student": student(), "lambdas": QUARTERS, "data": (X, Y)}
    with pytest.raises(error, match=message):
        initialize(**arguments | changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": torch.zeros(2, 2, dtype=torch.float64)}, r"0.weight is \(2, 2\)"),
        ({"0.bias": torch.zeros(5)}, "0.bias is .*torch.float32"),
        ({"0.bias": torch.full((5,), torch.nan, dtype=torch.float64)}, "0.bias holds NaN"),
        ({"new": torch.zeros(1)}, "new is no parameter"),
    ],
)
def test_bad_starts_are_named(change, message):
    with pytest.raises(ValueError, match=f"start: {message}"):
        solved(start=parameters(student()) | change)
