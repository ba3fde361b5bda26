"""The first term: the loss on the teacher's data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from phiopt._inputs import Inputs, Targets
from phiopt._types import Loss, Model, Params
from phiopt.objective.mean_loss import Task
from phiopt.objective.term import Draws, Evaluation, Term


@dataclass(frozen=True)
class TaskTerm(Term):
    """L_f(w, D1*): the mean loss on the lifted data. The formula is that of `Task`.

    (paper, section 4, term 1)
    """

    name: ClassVar[str] = "task"

    def value(self, at: Evaluation, draws: Draws) -> Tensor:
        return at.loss


def task(model: Model, loss: Loss, params: Params, inputs: Inputs, targets: Targets) -> Tensor:
    """The value of `Task` at ``params``."""
    return Task(model, loss, inputs, targets)(params)
