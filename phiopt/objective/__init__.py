"""φ's objective: terms, their weights, and the weighted sum."""

from phiopt.objective.corruption import Corruption
from phiopt.objective.curvature import Curvature, CurvatureTerm
from phiopt.objective.frobenius import Frobenius
from phiopt.objective.lambdas import Lambdas
from phiopt.objective.loss import student_loss
from phiopt.objective.mean_loss import Task
from phiopt.objective.model import LIFT, pure_model
from phiopt.objective.neighbourhood import Gaussian, Neighbourhood, Uniform, delta_of
from phiopt.objective.noise import NoiseTerm
from phiopt.objective.objective import Objective
from phiopt.objective.paper import paper_objective, paper_terms
from phiopt.objective.proximity import ProximityTerm
from phiopt.objective.replacement import Replacement
from phiopt.objective.sample import Sample, Samples, Stream, joined
from phiopt.objective.spectral import Spectral
from phiopt.objective.task import TaskTerm
from phiopt.objective.term import Evaluation, Term

__all__ = [
    "LIFT",
    "Corruption",
    "Curvature",
    "CurvatureTerm",
    "Evaluation",
    "Frobenius",
    "Gaussian",
    "Lambdas",
    "Neighbourhood",
    "NoiseTerm",
    "Objective",
    "ProximityTerm",
    "Replacement",
    "Sample",
    "Samples",
    "Spectral",
    "Stream",
    "Task",
    "TaskTerm",
    "Term",
    "Uniform",
    "delta_of",
    "joined",
    "paper_objective",
    "paper_terms",
    "pure_model",
    "student_loss",
]
