"""The outer level: the derivative of φ, and what is learned with it."""

from phiopt.bilevel.adjoint import Adjoint, AdjointError
from phiopt.bilevel.implicit import Implicit
from phiopt.bilevel.implicit_report import ImplicitReport
from phiopt.bilevel.linear import CG, MINRES, Damped, LinearSolution, LinearStatus
from phiopt.bilevel.outer import OuterLoss, Training
from phiopt.bilevel.replay import Replay
from phiopt.bilevel.search import Mirror, Optuna, SearchStatus
from phiopt.bilevel.unroll import Unroll

__all__ = [
    "CG",
    "MINRES",
    "Adjoint",
    "AdjointError",
    "Damped",
    "Implicit",
    "ImplicitReport",
    "LinearSolution",
    "LinearStatus",
    "Mirror",
    "Optuna",
    "OuterLoss",
    "Replay",
    "SearchStatus",
    "Training",
    "Unroll",
]
