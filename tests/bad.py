"""Values that break the rules of arguments, and what an error that refuses one has to say."""

import re
from math import inf, nan

import pytest
import torch
import torchopt
from torch import nn

import phiopt
from tests.cases import mlp, randn

X, Y = randn(8, 4, seed=3), torch.arange(8) % 3
DATA = (X, Y)
TEACHER, STUDENT = mlp(4, 3, 3, seed=1), mlp(4, 5, 4, seed=2)
LAMBDAS = (0.4, 0.3, 0.2, 0.1)
MAP = phiopt.GrowthMap.between(TEACHER, STUDENT)
SOLUTION = phiopt.initialize(TEACHER, STUDENT, (0, 1, 0, 0), solver=phiopt.TorchOpt(steps=1))

FLAG = (["no", "True", "", 1, 0, None, nan], "must be True or False")
COUNT = ([0, -(10**30), 1.5, "3", True, nan], "must be")
NATURAL = ([-1, 1.5, "3", False, nan], "must be")
SEED = ([-5, 2**63, 10**20, "1", 1.0, True, None, nan], "must be")
POSITIVE = ([0, -1.0, nan, inf, "1", True, None, 1j, 10**400], "must")
FRACTION = ([0, 1, nan, inf, "0.5", True, None], "must")
NUMBER = (["0", True, None, nan, inf, 1j], "must be")
PART = ([3, "text", object, []], "must be")
LIFT = ([3, "pad", []], "must be")
MODULE = ([None, 3, "net", nn.Linear], "must be an nn.Module")
SOURCE = ([3, "text", X, (X,), (X, Y, Y), iter([(X, Y)]), []], "must be")
OPTIMIZER = ([3, "adam", torchopt.adam, torch.optim.Adam], "must be a TorchOpt gradient")
SIZES = ([4, (), (0,), (4.0,), ("4",), (True,), "44", None], "must be")
CLASSES = (
    [[0, 1], [0, 1, 9], [0, 0, 1], [0, 1, -1], [0.5, 1, 2], [True, False, True], [1j, 2, 3], [[0], [1], [2]],
     [10**30, 1, 2], [None] * 3, "012", {0: 1}, 3, iter([0, 1, 2]), torch.zeros(3), torch.zeros(1, 3).long()],
    "must be",
)  # fmt: skip
PATH = ([3, "", None, []], "must be a path")


def word(*wrong):
    return [*wrong, "", "nope", None, 3, ["default"]], "must be"


def rows(table):
    """A row for each argument of each callable in a table of them."""
    return [
        pytest.param(call, name, *bad, id=f"{call.__name__}-{name}")
        for call, arguments in table.items()
        for name, bad in arguments.items()
    ]


def texts(value):
    """Any of these in a message shows the value: itself, the type, or a part that is wrong."""
    if isinstance(value, type):
        return [value.__name__]
    results = [repr(value)[:60], type(value).__name__]
    if isinstance(value, int | float) and abs(value) < 1e300:
        results.append(repr(float(value)))
    if isinstance(value, tuple | list):
        results += [text for part in value for text in texts(part)] + [
            f"{len(value)} parts",
            f"got {len(value)},",
        ]
    if isinstance(value, dict):
        results += [text for part in value.values() for text in texts(part)]
    if isinstance(value, torch.Tensor):
        results.append(str(tuple(value.shape)))
    return results


def check_refused(call, name, values, rule):
    """Each value is refused by the argument's name, the value and the rule."""
    for value in values:
        with pytest.raises((TypeError, ValueError)) as raised:
            call(**{name: value})
        message = str(raised.value)
        assert re.match(rf"([a-z_]+[.=])?{name}\b", message), value
        assert rule in message, value
        assert any(text in message for text in texts(value)), (value, message)
