"""The second term: closeness to the teacher's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from phiopt._types import Params
from phiopt._vector import under
from phiopt.derivatives import square_norm
from phiopt.objective.term import Draws, Evaluation, Term, Work

PREFIX = "teacher."


@dataclass(frozen=True, eq=False)
class ProximityTerm(Term):
    """L_2(w, u) = ‖u − w[u]‖². See `proximity`.

    Args:
        teacher: u, by the teacher's names.
        extract: w ↦ w[u], by the teacher's names.
    """

    name: ClassVar[str] = "proximity"
    over: ClassVar[Literal["examples", "batch", "parameters"]] = "parameters"

    teacher: Params
    extract: Callable[[Params], Params]

    def value(self, at: Evaluation, draws: Draws) -> Tensor:
        return proximity(at.params, self.teacher, self.extract)

    def unit(self, start: Params, values: Callable[[], Tensor]) -> float:
        """‖u‖²."""
        zero = {name: torch.zeros_like(value) for name, value in start.items()}
        return float(proximity(zero, self.teacher, self.extract).detach())

    def work(self, draws: Draws, examples: int) -> Work:
        return Work()

    def tensors(self) -> Params:
        return {PREFIX + name: value for name, value in self.teacher.items()}

    def shared(self, start: Params) -> dict[str, Any]:
        return {"extract": self.extract(start)}

    def with_tensors(self, values: Params) -> ProximityTerm:
        return replace(self, teacher=self.teacher | under(PREFIX, values))


def proximity(params: Params, teacher: Params, extract: Callable[[Params], Params]) -> Tensor:
    """L_2(w, u) = ‖u − w[u]‖²        (paper, section 4, term 2)

    ``teacher`` is u. ``extract`` gives w[u], the student's values where the teacher's coordinates sit, by the
    teacher's names. Only coordinates that ``params`` holds count. Fixed parameters and buffers would add a
    constant.
    """
    carried = extract(params)
    return square_norm({name: teacher[name] - value for name, value in carried.items()})
