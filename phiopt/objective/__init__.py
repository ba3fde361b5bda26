"""φ's objective: four terms, their weights, and the weighted sum."""

from phiopt.objective.curvature import Curvature, Frobenius
from phiopt.objective.lambdas import Lambdas
from phiopt.objective.loss import student_loss
from phiopt.objective.model import LIFT, pure_model
from phiopt.objective.neighbourhood import Corruption, Gaussian, Neighbourhood, Uniform, delta_of
from phiopt.objective.objective import Objective, Sample, Stream
from phiopt.objective.spectral import Spectral
from phiopt.objective.task import Task

__all__ = [
    "LIFT",
    "Corruption",
    "Curvature",
    "Frobenius",
    "Gaussian",
    "Lambdas",
    "Neighbourhood",
    "Objective",
    "Sample",
    "Spectral",
    "Stream",
    "Task",
    "Uniform",
    "delta_of",
    "pure_model",
    "student_loss",
]
