"""Bad arguments of every verb: refused by name, value and rule before any work.

Each row is a callable, an argument's name, a bad value and words of the rule.
"""

import copy
from math import inf, nan

import numpy as np
import pytest
import torch

import phiopt
from phiopt import criteria
from phiopt.growth import register_fill
from tests.bad import (
    CLASSES,
    COUNT,
    DATA,
    FLAG,
    FRACTION,
    LAMBDAS,
    LIFT,
    MAP,
    MODULE,
    NATURAL,
    NUMBER,
    PART,
    PATH,
    POSITIVE,
    SEED,
    SOLUTION,
    SOURCE,
    STUDENT,
    TEACHER,
    X,
    Y,
    check_refused,
    rows,
    word,
)

PATH_OR_NONE = [value for value in PATH[0] if value is not None], PATH[1]


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


def of_model(measure, **more):
    def call(**options):
        return measure(**{"model": STUDENT, "data": DATA} | more | options)

    call.__name__ = measure.__name__
    return call


def variance(**options):
    return criteria.prediction_variance(**{"models": [STUDENT, STUDENT], "data": DATA} | options)


def load(**options):
    return phiopt.Solution.load(**{"path": "nowhere", "student": STUDENT} | options)


def load_map(**options):
    given = {"path": "nowhere", "teacher": TEACHER, "student": STUDENT}
    return phiopt.GrowthMap.load(**given | options)


def register(name):
    return register_fill(name)(lambda start: start.student)


def save(path):
    SOLUTION.save(path)


def save_map(path):
    MAP.save(path)


def plot(path):
    MAP.plot(path)


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
        "classes": CLASSES,
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
        "classes": CLASSES,
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
        "classes": CLASSES,
        "inputs": ([3, "x", [0.0], (X, Y)], "must be a Tensor"),
        "lift": LIFT,
    },
    between: {
        "teacher": MODULE,
        "student": MODULE,
        "lift": LIFT,
        "inputs": ([3, "x", [0.0]], "must be a Tensor"),
        "classes": CLASSES,
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
    register: {"name": ([3, "", None, ["mine"], "zero", "net2wider", lambda start: {}], "must be")},
    save: {"path": PATH},
    save_map: {"path": PATH},
    plot: {"path": PATH_OR_NONE},
    load: {"path": PATH, "student": MODULE},
    load_map: {"path": PATH, "teacher": MODULE, "student": MODULE, "lift": LIFT},
}
ROWS = rows(TABLE)


@pytest.mark.parametrize(("call", "name", "values", "rule"), ROWS)
def test_a_bad_argument_is_refused_by_name_value_and_rule(call, name, values, rule):
    check_refused(call, name, values, rule)


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.slow), 2**63 - 1, np.int32(7)])
def test_work_takes_every_good_seed_and_flag(seed):
    few = phiopt.TorchOpt(steps=1)
    yes, no = np.True_, np.False_
    options = {"solver": few, "seed": seed, "throw": no, "progress": no, "restrict_classes": yes}
    actual = with_data(**options, micro_batch=np.int64(5), start="zero-out", restarts=0)
    assert not actual.lost
    assert grow(seed=seed, verify=yes, fill="net2wider", theta=np.float32(0.1)) is not None
    assert 0 <= criteria.evaluate(STUDENT, DATA, phiopt.Uniform(0.1), seed=seed).accuracy <= 1
    search = phiopt.Optuna(trials=2)
    assert learn(seed=seed, solver=few, search=search, lambdas=(0.5, 0.5, 0, 0)).path


def test_a_file_of_another_dtype_is_refused(tmp_path):
    path = tmp_path / "solution.safetensors"
    SOLUTION.save(path)
    rule = "path: .* student's 0.weight is torch.float32, not torch.float64"
    with pytest.raises(ValueError, match=rule):
        phiopt.Solution.load(path, copy.deepcopy(STUDENT).float())
    assert phiopt.Solution.load(path, STUDENT).status
