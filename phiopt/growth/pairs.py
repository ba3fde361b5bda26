"""What is known of one place of the two computations: of an axis, of a pair of values, of a parameter."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from phiopt.growth.axes import ParameterAxis, Size, Term


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a pair of values: its term, and the parameters whose rows make its coordinates."""

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
        """Whether it grows, or has its coordinates in another order."""
        return not self.term.same


@dataclass(frozen=True, eq=False)
class Pair:
    """The teacher's and the student's value at one place of the computation.

    ``weight``: computed from parameters alone. ``scales``: an axis made by parameters in which this
    value is linear. ``averages``: a unit whose incoming weights are the mean of others' has the mean of
    their values. ``squared``: the squares of an activation.
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
    """Dimensions summed over: the columns that read the units of the layer before."""


FRESH, MEAN, ZERO = -1, -2, -3
"""A new unit that copies none: random as constructed, the mean of the old ones, or zero."""


@dataclass(frozen=True)
class Norm:
    """A statistic over units that grow, such as the mean and variance of a normalisation.

    Attributes:
        module: The student's module that computes it.
        kind: Its name in messages.
        term: The units.
        otherwise: What new units have to be where they cannot be copies, equally many of every old unit: `MEAN`,
            `ZERO`, or `FRESH` where nothing helps.
        weight: The student's parameter that multiplies the result, by name.
        bias: The one that is added.
        averages: Whether the mean of the old units is what units with mean weights compute here.
        keeps: What ``otherwise`` keeps, in words, where the rest is a factor that ``weight`` can take up.
        copies: Whether copies keep it too. They do not keep a sum.
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


@dataclass(frozen=True)
class ConstantPair:
    """Two constants at one place of the computation, an option of the operation that reads them.

    ``picks``: the axis whose coordinates the values count, where they are indices.
    """

    operation: str
    option: str
    modules: tuple[str, str]
    pair: Pair
    values: tuple[Tensor, Tensor]
    picks: Axis | None = None
