"""Growth: where the teacher sits in the student, and how everything else starts."""

from phiopt.growth.axes import Mismatch
from phiopt.growth.call import Call
from phiopt.growth.carry import carry_optimizer
from phiopt.growth.catalogue import Facts, Lookup
from phiopt.growth.errors import AlignmentError
from phiopt.growth.grow import Verification, compare, grow
from phiopt.growth.map import GrowthMap
from phiopt.growth.operations import register_rule
from phiopt.growth.placement import Placement
from phiopt.growth.registry import register_fill

__all__ = [
    "AlignmentError",
    "Call",
    "Facts",
    "GrowthMap",
    "Lookup",
    "Mismatch",
    "Placement",
    "Verification",
    "carry_optimizer",
    "compare",
    "grow",
    "register_fill",
    "register_rule",
]
