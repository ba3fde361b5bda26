"""Bad arguments of every public function and class: refused by name, value and rule before any work.

Each row is a callable, an argument's name, a bad value and words of the rule. Good values of the same
arguments are accepted.
"""

import re
from math import inf, nan

import numpy as np
import pytest
import torch
import torchopt
from torch import nn

import phiopt
from phiopt import criteria, lift
from phiopt.bilevel import CG, MINRES, Damped, Neumann
from phiopt.solve import clipped
from tests.cases import mlp, randn

X, Y = randn(8, 4, seed=3), torch.arange(8) % 3
DATA = (X, Y)
TEACHER, STUDENT = mlp(4, 3, 3, seed=1), mlp(4, 5, 4, seed=2)
MAP = phiopt.GrowthMap.between(TEACHER, STUDENT)
LAMBDAS = (0.4, 0.3, 0.2, 0.1)
ADAM = torchopt.adam(1e-3)


def initialize(**options):
    return phiopt.initialize(
        **{"teacher": TEACHER, "student": STUDENT, "lambdas": LAMBDAS} | options
    )


def with_data(**options):
    return initialize(**{"data": DATA} | options)


def learn(**options):
    given = {"teacher": TEACHER, "student": STUDENT, "data": DATA, "outer": phiopt.OuterLoss(DATA)}
    return phiopt.learn(**given | options)


def grow(**options):
    return phiopt.grow(**{"teacher": TEACHER, "student": STUDENT} | options)


def between(**options):
    return phiopt.GrowthMap.between(**{"teacher": TEACHER, "student": STUDENT} | options)


def check(**options):
    return phiopt.check(**{"student": STUDENT, "data": DATA} | options)


def carry(**options):
    optimizer = torch.optim.SGD(TEACHER.parameters(), lr=0.1)
    given = {"optimizer": optimizer, "map": MAP, "teacher": TEACHER, "student": STUDENT}
    return phiopt.carry_optimizer(**given | options)


def lambdas(**weights):
    return phiopt.Lambdas(
        **dict(zip(phiopt.Lambdas.__annotations__, LAMBDAS, strict=True)) | weights
    )


def of_model(measure, **more):
    def call(**options):
        return measure(**{"model": STUDENT, "data": DATA} | more | options)

    call.__name__ = measure.__name__
    return call


def variance(**options):
    return criteria.prediction_variance(**{"models": [STUDENT, STUDENT], "data": DATA} | options)


def pad(**options):
    return lift.Pad(**{"size": (4, 4)} | options)


def channels(**options):
    return lift.Channels(**{"channels": 3} | options)


def resize(**options):
    return lift.Resize(**{"size": (4, 4)} | options)


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


def neumann(**options):
    return Neumann(**{"step": 0.1} | options)


def damped(**options):
    return Damped(**{"damping": 0.1} | options)


def load(**options):
    return phiopt.Solution.load(**{"path": "nowhere", "student": STUDENT} | options)


def load_map(**options):
    given = {"path": "nowhere", "teacher": TEACHER, "student": STUDENT}
    return phiopt.GrowthMap.load(**given | options)


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
PATH = ([3, "", None, []], "must be a path")


def word(*wrong):
    return [*wrong, "", "nope", None, 3, ["default"]], "must be"


TABLE = {
    initialize: {
        "seed": SEED,
        "throw": FLAG,
        "progress": FLAG,
        "restrict_classes": FLAG,
        "restarts": NATURAL,
        "micro_batch": COUNT,
        "scale": word("relativ", "Paper"),
        "solver": PART,
        "adjoint": PART,
        "curvature": PART,
        "neighbourhood": PART,
        "loss": LIFT,
        "lift": LIFT,
        "process_group": ([3, "world"], "must be a group"),
        "lambdas": (
            [None, 3, "quarters", {}, (1, 0, 0), (nan, 1, 0, 0), ("1", 0, 0, 0)],
            "must be",
        ),
    },
    with_data: {
        "teacher": MODULE,
        "student": MODULE,
        "data": SOURCE,
        "start": (["", "nope", "net2wide", 3, ["zero"], {"w": 3}, True], "must"),
    },
    learn: {
        "teacher": MODULE,
        "student": MODULE,
        "data": SOURCE,
        "outer": ([None, 3, DATA, phiopt.OuterLoss], "must be an OuterLoss"),
        "seed": SEED,
        "progress": FLAG,
        "restrict_classes": FLAG,
        "floor": FRACTION,
        "theta": POSITIVE,
        "scale": word("relativ"),
        "search": PART,
        "solver": PART,
        "curvature": PART,
        "neighbourhood": PART,
        "loss": LIFT,
        "lift": LIFT,
        "parameters": (["lambdas", (), ("delta",), ("lambdas", "thet"), 3, None], "must be names"),
        "start": (["", "nope", 3, ["zero"]], "must be"),
    },
    grow: {
        "teacher": MODULE,
        "student": MODULE,
        "fill": word("zeros", "net2wide", "Zero"),
        "theta": ([-1, nan, inf, "1", True, None, 1j, [0.1]], "must"),
        "seed": SEED,
        "verify": (["no", "True", "", 1, 0, nan], "must be True or False"),
        "map": ([3, "map", phiopt.GrowthMap, {}], "must be a GrowthMap"),
        "inputs": ([3, "x", [0.0], (X, Y)], "must be a Tensor"),
        "lift": LIFT,
    },
    between: {
        "teacher": MODULE,
        "student": MODULE,
        "lift": LIFT,
        "inputs": ([3, "x", [0.0]], "must be a Tensor"),
        "correspondence": ([3, "0", ["0"]], "must be a mapping"),
    },
    carry: {
        "optimizer": ([None, 3, "sgd", torch.optim.SGD], "must be a torch.optim.Optimizer"),
        "map": ([None, 3, {}], "must be a GrowthMap"),
        "teacher": MODULE,
        "student": MODULE,
    },
    check: {
        "student": MODULE,
        "data": SOURCE,
        "lift": LIFT,
        "loss": LIFT,
        "examples": COUNT,
        "seed": SEED,
    },
    of_model(criteria.evaluate): {
        "model": MODULE,
        "data": SOURCE,
        "neighbourhood": PART,
        "batch_size": COUNT,
        "seed": SEED,
    },
    of_model(criteria.accuracy): {"model": MODULE, "data": SOURCE, "batch_size": COUNT},
    of_model(criteria.cross_entropy): {"model": MODULE, "data": SOURCE, "batch_size": COUNT},
    of_model(criteria.predict): {"model": MODULE, "data": SOURCE, "batch_size": COUNT},
    of_model(criteria.robustness, neighbourhood=phiopt.Uniform(0.1)): {
        "model": MODULE,
        "data": SOURCE,
        "neighbourhood": ([*PART[0], None], "must be"),
        "loss": LIFT,
        "batch_size": COUNT,
        "seed": SEED,
    },
    of_model(criteria.corruption_curve): {
        "model": MODULE,
        "data": SOURCE,
        "percentages": ([(), iter(()), 30, "30", (101,), (-1,), (nan,), ("3",), (True,)], "must"),
        "low": NUMBER,
        "high": NUMBER,
        "batch_size": COUNT,
        "seed": SEED,
    },
    variance: {
        "models": ([None, 3, [], [STUDENT], iter([STUDENT] * 2), [3, 3], STUDENT], ""),
        "data": SOURCE,
        "batch_size": COUNT,
    },
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
    neumann: {"step": POSITIVE, "tol": FRACTION, "max_iterations": COUNT},
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
        "at": ([-1, 1, 1.5, "1", True, None], "must be"),
    },
    resize: {"size": SIZES, "mode": word("biqubic")},
    compose: {"lifts": ([(), (3,), (lift.Pad,), (lambda x: x,)], "must be")},
    load: {"path": PATH, "student": MODULE},
    load_map: {"path": PATH, "teacher": MODULE, "student": MODULE, "lift": LIFT},
}
ROWS = [
    pytest.param(call, name, *bad, id=f"{call.__name__}-{name}")
    for call, arguments in TABLE.items()
    for name, bad in arguments.items()
]


def texts(value):
    """Any of these in a message shows the value: itself, the type, or a part that is wrong."""
    if isinstance(value, type):
        return [value.__name__]
    found = [repr(value)[:60], type(value).__name__]
    if isinstance(value, int | float) and abs(value) < 1e300:
        found.append(repr(float(value)))
    if isinstance(value, tuple | list):
        found += [text for part in value for text in texts(part)] + [
            f"{len(value)} parts",
            f"got {len(value)},",
        ]
    if isinstance(value, dict):
        found += [text for part in value.values() for text in texts(part)]
    if isinstance(value, torch.Tensor):
        found.append(str(tuple(value.shape)))
    return found


@pytest.mark.parametrize(("call", "name", "values", "rule"), ROWS)
def test_a_bad_argument_is_refused_by_name_value_and_rule(call, name, values, rule):
    for value in values:
        with pytest.raises((TypeError, ValueError)) as raised:
            call(**{name: value})
        message = str(raised.value)
        assert re.match(rf"([a-z_]+[.=])?{name}\b", message), value
        assert rule in message, value
        assert any(text in message for text in texts(value)), (value, message)


def test_the_table_is_long():
    assert sum(len(row.values[2]) for row in ROWS) >= 400


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
    "matrix": ["hessian", "layers", "gauss-newton"],
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
MADE += [resize, compose, neumann, damped]


@pytest.mark.parametrize("call", MADE, ids=lambda call: call.__name__)
def test_good_arguments_are_accepted(call):
    for name in TABLE[call]:
        for value in GOOD.get(name, []):
            if not (value is None and name in ("tol", "optimizer")):
                call(**{name: value})


@pytest.mark.parametrize("seed", GOOD["seed"])
def test_work_takes_every_good_seed_and_flag(seed):
    few = phiopt.TorchOpt(steps=1)
    yes, no = np.True_, np.False_
    options = {"solver": few, "seed": seed, "throw": no, "progress": no, "restrict_classes": yes}
    found = with_data(**options, micro_batch=np.int64(5), start="zero-out", restarts=0)
    assert not found.lost
    assert grow(seed=seed, verify=yes, fill="net2wider", theta=np.float32(0.1)) is not None
    assert 0 <= criteria.evaluate(STUDENT, DATA, phiopt.Uniform(0.1), seed=seed).accuracy <= 1
    search = phiopt.Optuna(trials=2)
    assert learn(seed=seed, solver=few, search=search, lambdas=(0.5, 0.5, 0, 0)).path


def test_a_file_of_another_dtype_is_refused(tmp_path):
    path = tmp_path / "solution.safetensors"
    initialize(lambdas=(0, 1, 0, 0), solver=phiopt.TorchOpt(steps=1)).save(path)
    rule = "path: .* student's 0.weight is torch.float32, not torch.float64"
    with pytest.raises(ValueError, match=rule):
        phiopt.Solution.load(path, mlp(4, 5, 4).float())
    assert phiopt.Solution.load(path, STUDENT).status
