"""The values of terms that have no weight, for a full report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from phiopt._types import Params
from phiopt.objective import Objective, Sample
from phiopt.solve.counted import Counted
from phiopt.solve.outcome import Outcome

NO_DERIVATIVES = "has no derivatives to trust"
"""Why a term that takes third derivatives is left out where the student or the loss has none."""


@torch.no_grad()
def with_all_terms(
    outcome: Outcome,
    objective: Objective,
    start: Params,
    params: Params,
    draws: Sequence[Sample],
    left_out: Collection[str],
) -> Outcome:
    """The outcome with the raw terms that have no weight, at w0 and at w1, their means over the draws.

    Terms in ``left_out`` are not computed. A term that raises is left out too, and its exception is the outcome's
    error: a solve is worth more than its report.
    """
    counted = Counted(objective)
    start_terms, terms, error = dict(outcome.start_terms), dict(outcome.terms), outcome.error
    for name in objective.names:
        if name in terms or name in left_out or name not in draws[0].draws:
            continue
        try:
            first = counted.mean_terms(start, draws, [name])
            last = counted.mean_terms(params, draws, [name])
        except Exception as raised:
            error = error or raised
            continue
        start_terms[name], terms[name] = float(first[name]), float(last[name])
    order = [name for name in objective.names if name in terms]
    return replace(
        outcome,
        start_terms={name: start_terms[name] for name in order},
        terms={name: terms[name] for name in order},
        error=error,
    )
