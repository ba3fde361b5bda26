"""The inner problem: solvers of argmin_w L(w), and what they give back."""

from phiopt.solve.agreement import (
    agreeing,
    check_agreement,
    check_settings,
    failing_together,
    fingerprint,
)
from phiopt.solve.batched import solve_many
from phiopt.solve.certificate import certify, fresh_draws, verdict
from phiopt.solve.clip import clipped
from phiopt.solve.deterministic import LBFGS, NewtonCG
from phiopt.solve.exchange import together
from phiopt.solve.mask import masked
from phiopt.solve.normalise import normalised
from phiopt.solve.parallel import data_parallel
from phiopt.solve.restarts import restarted
from phiopt.solve.solution import (
    Certificate,
    Outcome,
    Solution,
    SolveError,
    Spectrum,
    Stats,
    Status,
)
from phiopt.solve.solver import Solver
from phiopt.solve.stacked import StackableProblem
from phiopt.solve.torchopt_loop import TorchOpt, decaying_adam, default_optimizer

__all__ = [
    "LBFGS",
    "Certificate",
    "NewtonCG",
    "Outcome",
    "Solution",
    "SolveError",
    "Solver",
    "Spectrum",
    "StackableProblem",
    "Stats",
    "Status",
    "TorchOpt",
    "agreeing",
    "certify",
    "check_agreement",
    "check_settings",
    "clipped",
    "data_parallel",
    "decaying_adam",
    "default_optimizer",
    "failing_together",
    "fingerprint",
    "fresh_draws",
    "masked",
    "normalised",
    "restarted",
    "solve_many",
    "together",
    "verdict",
]
