"""ψ: how an input of the teacher becomes an input of the student (paper, section 4, D1*).

A lift is any callable on a batch. The lifts of this module also say *where* they put the teacher's coordinates. The
growth map needs this for the columns of a linear layer behind ``flatten``. Any other callable is applied to probes. If
it mixes coordinates, the teacher's are taken to be the first on each axis, and the map's ``inexact_reasons`` say so.

A lift with parameters to learn is an ``nn.Module``. With methods ``shape`` and ``index_maps`` it says where it puts the
teacher's coordinates, and can be part of a `Compose`. It runs in evaluation mode.
"""

from phiopt.lift.compose import Compose
from phiopt.lift.infer import infer
from phiopt.lift.lifts import Channels, Identity, Pad, Resize, Tokens, nearest_indices
from phiopt.lift.protocol import PlacedLift, Shape

__all__ = [
    "Channels",
    "Compose",
    "Identity",
    "Pad",
    "PlacedLift",
    "Resize",
    "Shape",
    "Tokens",
    "infer",
    "nearest_indices",
]
