"""Grow a trained network into a larger one by solving the Anti-Distillation problem."""

from phiopt import criteria, lift
from phiopt._types import Lift, Loss, Params
from phiopt.bilevel import (
    AdjointError,
    Implicit,
    Mirror,
    Optuna,
    OuterLoss,
    Replay,
    Training,
    Unroll,
)
from phiopt.check import check
from phiopt.data import Source
from phiopt.growth import GrowthMap, carry_optimizer, grow
from phiopt.initialize import initialize
from phiopt.learn import Learned, learn
from phiopt.objective import Corruption, Frobenius, Gaussian, Lambdas, Spectral, Uniform
from phiopt.optimizers import masked, normalised
from phiopt.pose import pose
from phiopt.problem import Problem
from phiopt.solve import (
    LBFGS,
    NewtonCG,
    Solution,
    SolveError,
    Status,
    TorchOpt,
)

__version__ = "0.1.0"

__all__ = [
    "LBFGS",
    "AdjointError",
    "Corruption",
    "Frobenius",
    "Gaussian",
    "GrowthMap",
    "Implicit",
    "Lambdas",
    "Learned",
    "Lift",
    "Loss",
    "Mirror",
    "NewtonCG",
    "Optuna",
    "OuterLoss",
    "Params",
    "Problem",
    "Replay",
    "Solution",
    "SolveError",
    "Source",
    "Spectral",
    "Status",
    "TorchOpt",
    "Training",
    "Uniform",
    "Unroll",
    "carry_optimizer",
    "check",
    "criteria",
    "grow",
    "initialize",
    "learn",
    "lift",
    "masked",
    "normalised",
    "pose",
]
