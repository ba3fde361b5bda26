"""The contents of a growth map, which are derived from two models or read from a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from phiopt._inputs import Several
from phiopt._types import Lift
from phiopt.growth.correspond import Correspondence
from phiopt.growth.inserted import Inserted
from phiopt.growth.placement import Placement


class MapContents:
    """The attributes of a [`GrowthMap`][phiopt.growth.GrowthMap], which documents them."""

    def __init__(
        self,
        placements: Mapping[str, Placement],
        *,
        lift: Lift,
        classes: Tensor,
        class_axis: int,
        inexact_reasons: Sequence[str] = (),
        correspondence: Correspondence | None = None,
        inserted: Sequence[Inserted] = (),
        fresh: Mapping[str, tuple[int, ...]] | None = None,
        traced: tuple[tuple[int, ...], torch.dtype] | None = None,
        beside: Several | None = None,
        aliases: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
        unplaced: Collection[str] = (),
    ) -> None:
        self.placements = dict(placements)
        self.lift, self.classes, self.class_axis = lift, classes, class_axis
        self.inexact_reasons = tuple(inexact_reasons)
        self.correspondence = correspondence
        self.inserted = tuple(inserted)
        self.fresh = dict(fresh or {})
        self.traced = traced
        self.beside = beside
        self.aliases = aliases
        self.unplaced = frozenset(unplaced)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The same as ``inexact_reasons``, by its older name."""
        return self.inexact_reasons
