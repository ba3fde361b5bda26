"""The inner problem: solvers of argmin_w L(w), and what they give back."""

from phiopt.solve.batched import solve_many
from phiopt.solve.certificate import LEVELS, Certificate, Level, certify, fresh_draws, verdict
from phiopt.solve.deterministic import LBFGS, NewtonCG
from phiopt.solve.forecast import CostEstimate
from phiopt.solve.outcome import Outcome, Stats, Status
from phiopt.solve.reported import reported
from phiopt.solve.restarts import restarted
from phiopt.solve.solution import Solution, SolveError, raise_failure
from phiopt.solve.solver import Solver, SolvesMany
from phiopt.solve.spectrum import Spectrum
from phiopt.solve.stacked import StackableProblem
from phiopt.solve.torchopt_loop import TorchOpt
from phiopt.solve.unweighted import NO_DERIVATIVES, with_all_terms

__all__ = [
    "LBFGS",
    "LEVELS",
    "NO_DERIVATIVES",
    "Certificate",
    "CostEstimate",
    "Level",
    "NewtonCG",
    "Outcome",
    "Solution",
    "SolveError",
    "Solver",
    "SolvesMany",
    "Spectrum",
    "StackableProblem",
    "Stats",
    "Status",
    "TorchOpt",
    "certify",
    "fresh_draws",
    "raise_failure",
    "reported",
    "restarted",
    "solve_many",
    "verdict",
    "with_all_terms",
]
