"""Bad arguments of settings, such as solvers, terms, searches and lifts: refused by name, value and rule.

Each row is a callable, an argument's name, a bad value and words of the rule. Good values of the same arguments are
accepted.
"""

from math import inf, nan

import numpy as np
import pytest
import torch
import torchopt

import phiopt
from phiopt import lift
from phiopt.bilevel import CG, MINRES, Damped
from phiopt.optimizers import clipped
from tests.bad import (
    COUNT,
    DATA,
    FLAG,
    FRACTION,
    LAMBDAS,
    LIFT,
    MAP,
    NUMBER,
    OPTIMIZER,
    PART,
    POSITIVE,
    SIZES,
    SOURCE,
    X,
    Y,
    check_refused,
    rows,
    word,
)
from tests.test_bad_arguments import ROWS as OTHERS

ADAM = torchopt.adam(1e-3)


def lambdas(**weights):
    return phiopt.Lambdas(
        **dict(zip(phiopt.Lambdas.__annotations__, LAMBDAS, strict=True)) | weights
    )


def pad(**options):
    return lift.Pad(**{"size": (4, 4)} | options)


def channels(**options):
    return lift.Channels(**{"channels": 3} | options)


def resize(**options):
    return lift.Resize(**{"size": (4, 4)} | options)


def tokens(ids):
    return lift.Tokens(ids)


def infer(**options):
    return lift.infer(**{"teacher": (4,), "student": (4,)} | options)


def compose(lifts):
    return lift.Compose(*lifts)


def with_delta(kind):
    def call(**options):
        return kind(**{"delta": 0.1} | options)

    call.__name__ = kind.__name__
    return call


uniform, gaussian, corruption = map(
    with_delta, (phiopt.Uniform, phiopt.Gaussian, phiopt.Corruption)
)


def training(**options):
    return phiopt.Training(**{"data": DATA} | options)


def outer(**options):
    return phiopt.OuterLoss(**{"data": DATA} | options)


def masked(**options):
    return phiopt.masked(**{"optimizer": ADAM, "mask": {"w": torch.tensor(True)}} | options)


def normalised(**options):
    return phiopt.normalised(**{"optimizer": ADAM} | options)


def clip(**options):
    return clipped(**{"optimizer": ADAM, "max_norm": 1.0} | options)


def damped(**options):
    return Damped(**{"damping": 0.1} | options)


TABLE = {
    lambdas: {
        name: ([-0.1, nan, inf, "1", True, None, 1j, torch.ones(2)], "must")
        for name in ("task", "proximity", "noise", "curvature")
    },
    uniform: {
        "delta": ([-0.1, nan, inf, "1", True, None, torch.ones(2)], "must"),
        "samples": COUNT,
        "norm": ([1, "2", nan, True, None, -inf], "must"),
        "clip": ([0.5, (0,), (1, 0), (0, 1, 2), ("a", "b"), (nan, 1), "01"], ""),
        "sampling": word("sobel"),
    },
    gaussian: {
        "delta": ([-0.1, nan, inf, "1", True, None, torch.ones(2)], "must"),
        "samples": COUNT,
        "clip": ([0.5, (0,), (1, 0), (1, 1), (nan, 1), "01"], ""),
        "sampling": word("independant"),
    },
    corruption: {
        "delta": ([-0.1, 1.1, nan, inf, "1", True, None, torch.ones(2)], "must"),
        "samples": COUNT,
        "low": ([1, 2, *NUMBER[0]], "must be"),
        "high": NUMBER,
        "sampling": word("antithetik"),
    },
    phiopt.Frobenius: {
        "probes": COUNT,
        "every": COUNT,
        "distribution": word("gausian"),
        "matrix": word("hesian", "gauss_newton"),
        "batch": ([0, -0.1, 1.1, nan, inf, "0.5", True], "must be"),
    },
    phiopt.Spectral: {"iterations": COUNT, "tol": FRACTION},
    phiopt.TorchOpt: {
        "optimizer": OPTIMIZER,
        "steps": COUNT,
        "batch_size": COUNT,
        "tol": ([0, 1, nan, "0.5", True], "must"),
        "fresh": FLAG,
        "check_every": COUNT,
    },
    phiopt.LBFGS: {
        "steps": COUNT,
        "batch_size": COUNT,
        "draws": COUNT,
        "tol": FRACTION,
        "memory": COUNT,
    },
    phiopt.NewtonCG: {
        "method": word("trust-krilov"),
        "steps": COUNT,
        "batch_size": COUNT,
        "draws": COUNT,
        "tol": FRACTION,
    },
    phiopt.Mirror: {
        "budget": COUNT,
        "rate": POSITIVE,
        "restarts": COUNT,
        "patience": COUNT,
        "adjoint": PART,
    },
    phiopt.Optuna: {"trials": COUNT},
    phiopt.Unroll: {"last": COUNT},
    phiopt.Replay: {"every": COUNT},
    phiopt.Implicit: {
        "linear_solver": PART,
        "tol": FRACTION,
        "check": FLAG,
        "max_error": POSITIVE,
        "damping": FRACTION,
        "report": LIFT,
    },
    CG: {"tol": FRACTION, "max_iterations": COUNT},
    MINRES: {"tol": FRACTION, "max_iterations": COUNT},
    damped: {"damping": POSITIVE, "solver": PART},
    outer: {
        "data": SOURCE,
        "robust": ([-0.1, 1.1, nan, inf, "0.5", True, None], "must"),
        "neighbourhood": PART,
        "training": ([3, "text", DATA, phiopt.Training], "must be a Training"),
        "loss": LIFT,
        "batch_size": COUNT,
    },
    training: {"data": SOURCE, "optimizer": OPTIMIZER, "steps": COUNT, "batch_size": COUNT},
    masked: {
        "optimizer": ([*OPTIMIZER[0], None], "must be a TorchOpt gradient"),
        "mask": ([None, 3, "mask", [], torch.tensor(True), {"w": True}], "must be"),
    },
    normalised: {"optimizer": ([*OPTIMIZER[0], None], "must be a TorchOpt"), "window": COUNT},
    clip: {"optimizer": ([*OPTIMIZER[0], None], "must be a TorchOpt"), "max_norm": POSITIVE},
    pad: {"size": SIZES, "align": word("centre"), "value": NUMBER},
    channels: {
        "channels": COUNT,
        "mode": word("repeated"),
        "at": ([-1, 1, 1.5, "1", True, None, (), (0, 0), (-1,), ("a",)], "must be"),
    },
    tokens: {"ids": ([(), (1, 1), (-1, 0), (0.5,), "ab", None, 3], "must be")},
    resize: {"size": SIZES, "mode": word("biqubic")},
    infer: {
        "teacher": ([3, "28", None, {1}, (2.5,), (-1,), ("4",), (True,)], "must be"),
        "student": ([3, "28", None, {1}, (2.5,), (-1,), ("4",), (True,)], "must be"),
    },
    compose: {"lifts": ([(), (3,), (lift.Pad,), (lambda x: x,)], "must be")},
}
ROWS = rows(TABLE)


@pytest.mark.parametrize(("call", "name", "values", "rule"), ROWS)
def test_a_bad_argument_is_refused_by_name_value_and_rule(call, name, values, rule):
    check_refused(call, name, values, rule)


GOOD = {
    "seed": [0, 2**63 - 1, np.int32(7)],
    "steps": [1, np.int64(3)],
    "batch_size": [1, np.int64(3), None],
    "draws": [1, None],
    "tol": [0.5, np.float32(0.5), torch.tensor(0.5)],
    "fresh": [True, False, np.True_],
    "check": [True, np.False_],
    "delta": [0, 0.5, np.float64(0.5), torch.tensor(0.5)],
    "samples": [2, np.int64(4)],
    "sampling": ["independent"],
    "norm": [2, 2.0, inf],
    "clip": [None, (0, 1), [0.0, 1.0], (-inf, inf)],
    "low": [-1, 0.5],
    "high": [0.5, 3],
    "batch": [1, 0.25, None],
    "matrix": ["hessian", "gauss-newton"],
    "optimizer": [ADAM],
    "size": [(4, 4), [5, 5], (np.int64(6), 7)],
    "value": [0, -1.5, np.float32(2)],
    "align": ["start", "center"],
    "channels": [1, np.int64(3)],
    "at": [0],
    "mask": [{}, MAP.mask()],
    "lifts": [(lift.Identity(),), (lift.Channels(3), lift.Pad((4, 4)))],
    "robust": [0, 1, 0.5],
    "loss": [None, torch.nn.functional.mse_loss],
    "data": [DATA, list(DATA), torch.utils.data.TensorDataset(X, Y)],
    "last": [None, 3],
    "report": [None, print],
}
MADE = [call for call in TABLE if isinstance(call, type)]
MADE += [uniform, gaussian, corruption, outer, training, masked, normalised, clip, pad, channels]
MADE += [resize, compose, damped]


@pytest.mark.parametrize("call", MADE, ids=lambda call: call.__name__)
def test_good_arguments_are_accepted(call):
    for name in TABLE[call]:
        for value in GOOD.get(name, []):
            if not (value is None and name in ("tol", "optimizer")):
                call(**{name: value})


def test_the_tables_are_long():
    assert sum(len(row.values[2]) for row in (*ROWS, *OTHERS)) >= 400
