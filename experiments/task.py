"""A task of an experiment: what is grown, on which data, and by which methods."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from experiments.data import Splits
from experiments.methods import METHODS as PAPER
from experiments.methods import Growth, Initialised, Phi
from experiments.rivals import RIVALS
from experiments.train import Recipe
from experiments.weights import WEIGHTED
from phiopt._types import Lift
from phiopt.objective.neighbourhood import Neighbourhood

Method: TypeAlias = Callable[[Growth, int], Initialised]

METHODS: dict[str, Method] = PAPER | WEIGHTED | RIVALS
"""Every initialisation by name."""


@dataclass(frozen=True)
class Task:
    """What is grown, on which data, and how long it is trained."""

    name: str
    title: str
    teacher: Callable[[], nn.Module]
    student: Callable[[], nn.Module]
    splits: Callable[[int], Splits]
    """D2 of a seed."""
    teacher_recipe: Recipe
    student_recipe: Recipe
    phi: Phi
    theta: float
    lift: Lift | None = None
    """ψ; None: inferred from D1 and the student."""
    classes: tuple[int, ...] | None = None
    """Student output of each of the teacher's classes; None: the first ones."""
    teacher_splits: Callable[[int], Splits] | None = None
    """D1 of a seed; None: the examples of D2 that have ``classes``."""
    methods: Mapping[str, Method] | None = None
    """What is compared, by name; None: `METHODS`."""
    pixels: tuple[float, float] = (0.0, 1.0)
    """Least and largest value of D2's inputs, between which a corrupted pixel lies."""
    criterion: Neighbourhood | None = None
    """U_δ of the criterion L3^δ(w*, D2); None: the one that φ draws from."""
    shares_teacher: str | None = None
    """Tasks of one name here have one teacher; None: the task's own."""
    one_teacher: bool = False
    """All seeds have the parts and the teacher of seed 0: they are seeds of the student alone."""
    same_test: bool = True
    """All seeds are measured on the same images, on which none of them was trained."""

    @property
    def registry(self) -> Mapping[str, Method]:
        return METHODS if self.methods is None else self.methods

    def drawn(self, seed: int) -> int:
        """The seed of the parts and the teacher that the students of ``seed`` have."""
        return 0 if self.one_teacher else seed

    @property
    def noise(self) -> Neighbourhood:
        """U_δ around D2's inputs."""
        return self.criterion or self.phi.neighbourhood

    def taught(self, seed: int, splits: Splits) -> Splits:
        """D1 of a seed whose D2 is ``splits``, on the same device; its test part is not used."""
        if self.teacher_splits is not None:
            return self.teacher_splits(seed).to(splits.train.x.device)
        if self.classes is None:
            return splits
        known, held_out = (part.of(self.classes) for part in (splits.train, splits.validation))
        return splits._replace(train=known, validation=held_out)
