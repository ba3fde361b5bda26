"""Training after growth: learning rates by layer and by coordinate, and growth in the midst of a training."""

from phiopt.training.groups import param_groups
from phiopt.training.growing import grow_in_place
from phiopt.training.rates import CoordinateRates

__all__ = ["CoordinateRates", "grow_in_place", "param_groups"]
