"""The pieces of a correspondence: axes, pairs of values, placed parameters, statistics and constants."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from phiopt.growth.axes import ParameterAxis, Size, Term
from phiopt.growth.graph import Value


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a pair of values: its term, and the axes of parameters whose rows make its coordinates."""

    term: Term
    source_parameters: frozenset[ParameterAxis] = frozenset()

    @property
    def size(self) -> Size:
        return self.term.size

    @property
    def grown(self) -> bool:
        return self.term.t != self.term.s

    @property
    def moved(self) -> bool:
        """Whether it grows or changes the order of its coordinates."""
        return not self.term.same


@dataclass(frozen=True, eq=False)
class Pair:
    """A value of the teacher and the value of the student that stands for it.

    Attributes:
        axes: One for each dimension.
        weight: Whether it is computed from parameters alone.
        scales: An axis of parameters' rows in which the value is linear.
        averages: Whether a unit whose incoming weights are the mean of other units' weights has the mean of their
            values.
        squared: Whether it is the square of an activation.
    """

    axes: tuple[Axis, ...]
    weight: bool = False
    scales: Axis | None = None
    averages: bool = False
    squared: bool = False

    @property
    def sizes(self) -> tuple[Size, ...]:
        return tuple(a.size for a in self.axes)


@dataclass
class TensorPlace:
    """Where one teacher tensor sits in one student tensor, axis by axis."""

    student: str
    axes: tuple[Axis, ...]
    input_axes: set[int] = field(default_factory=set)
    """Dimensions that are summed over: the columns, which read the units of the layer before."""
    shift: float = 0.0
    """What the models add to the tensor before anything else: of a weight that is 1 plus a parameter, 1."""
    resampled: set[int] = field(default_factory=set)
    """Dimensions of a table of positions, whose rows are resampled for another size of images."""


FRESH, MEAN, ZERO = -1, -2, -3
"""What a new unit is that copies no old one: random as constructed, the mean of the old units, or zero."""


@dataclass(frozen=True)
class Norm:
    """A statistic over units that grow, such as the mean and variance of a normalisation.

    Attributes:
        module: The student's module that computes it.
        kind: Its name in messages.
        term: The units.
        otherwise: What new units have to be if their number does not allow equally many copies of every old unit:
            `MEAN`, `ZERO`, or `FRESH` if nothing keeps the statistic.
        weight: The student's parameter that multiplies the result, by name.
        bias: The student's parameter that is added, by name.
        averages: Whether a unit with the mean of the old units' weights computes the mean of the old units here.
        keeps: What ``otherwise`` keeps, in words. The rest is a factor, which ``weight`` takes up.
        copies: Whether copies keep the statistic. A sum is not kept by copies.
        made_by: The axes of parameters whose rows make the units.
    """

    module: str
    kind: str
    term: Term
    otherwise: int
    weight: str | None = None
    bias: str | None = None
    averages: bool = False
    keeps: str | None = None
    copies: bool = True
    made_by: frozenset[ParameterAxis] = frozenset()


@dataclass(frozen=True)
class Factor:
    """A constant factor that is another in the student.

    Attributes:
        value: The student's value that it multiplies.
        scales: The axis of parameters' rows in which the value is linear; ``None`` where there is none.
        ratio: The teacher's factor divided by the student's. The value is to be multiplied by it.
        reason: Why the map is not exact if no parameter takes it up.
    """

    value: Value
    scales: Axis | None
    ratio: float
    reason: str


@dataclass(frozen=True)
class ConstantPair:
    """A constant of the teacher and one of the student that two paired operations read.

    Attributes:
        operation: The operation's name.
        option: The argument that holds the constant.
        modules: Paths of the modules, teacher's and student's.
        pair: The axes of the constants.
        values: The constants.
        picks: If the values are indices, the axis that they count along.
    """

    operation: str
    option: str
    modules: tuple[str, str]
    pair: Pair
    values: tuple[Tensor, Tensor]
    picks: Axis | None = None
