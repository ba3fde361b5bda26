"""The certificate: how good a minimiser is, measured on fresh draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from phiopt._progress import advance
from phiopt._types import Params
from phiopt.derivatives import dot, square_norm
from phiopt.objective import Objective, Sample, Stream
from phiopt.solve.counted import Counted
from phiopt.solve.outcome import Outcome, Status
from phiopt.solve.spectrum import MeanHessian, Spectrum, flat, spectrum

Level: TypeAlias = Literal["light", "full"]
"""How much a certificate measures; see `Certificate`."""
LEVELS = get_args(Level)

DRAWS, LIGHT_GRADIENTS = 4, 2
"""Fresh draws of a certificate, and those of a light one at which gradients are taken."""


@dataclass(frozen=True)
class Certificate:
    """How good a minimiser the solution is, measured on fresh draws. No step and no comparison of iterates has used
    these draws.

    A full certificate takes L and its gradient on four draws, at w1 and at w0, and the curvature along the gradient. A
    light one takes gradients on two of the draws only, and no curvature. So the full one costs ten gradients of L, and
    the light one four gradients and four values.

    Args:
        gradient_norm: ‖∇L(w1)‖ / ‖∇L(w0)‖, both of the mean over the draws at which gradients are taken; 0 where
            both are 0.
        gradient_norm_error: Standard error of ∇L(w1) over ‖∇L(w0)‖. A smaller ``gradient_norm`` is noise.
        start_gradient_norm: ‖∇L(w0)‖.
        curvature_along_gradient: gᵀ∇²L g / ‖g‖² at w1, for the mean gradient g. ∇²L g is a central
            difference on the first draw. Negative: w1 is no minimum. None in a light certificate, and if g is 0
            or a value next to w1 is not finite.
        objective: L(w1), mean over the draws.
        start_objective: L(w0), mean over the same draws.
        decrease_error: Standard error of their difference; 0 for a single draw.
        terms: The raw terms with weight at w1, mean over the draws.
        standard_errors: Standard errors of those terms, over the draws; 0 where nothing is sampled.
        draws: Number of draws.
        dead_units: By weight, the number of its units whose incoming and outgoing weights have gradients of
            exactly zero. No gradient method can ever move them; see `dead_units`.
        spectrum: The ends of the spectrum of ∇²L(w1), on the frozen sample if there was one; None
            unless the gradient norm had fallen to the tolerance. NaN where a product was not finite.
        restarts: L of the solutions from other starts, on the same draws and in the order of the starts.
        curvature_error: The error of `Spectral`'s eigenvector at w1, the largest over the draws: the sine of an
            angle, in [0, 1]. The relative error of L_4's gradient is in proportion to it. None where the
            curvature has no weight or no search.
        unsettled: The number of draws on which that search did not reach its tolerance.
    """

    gradient_norm: float
    gradient_norm_error: float
    start_gradient_norm: float
    curvature_along_gradient: float | None
    objective: float
    start_objective: float
    decrease_error: float
    terms: dict[str, float]
    standard_errors: dict[str, float]
    draws: int
    dead_units: dict[str, int]
    spectrum: Spectrum | None = None
    restarts: tuple[float, ...] = ()
    curvature_error: float | None = None
    unsettled: int = 0


@dataclass(frozen=True)
class Moments:
    """Means over draws of the objective: value, terms and gradient, with the standard errors of the terms and of the
    gradient.

    ``values`` has the value on each draw. ``gradient_error`` is the root of the summed variances of the mean
    gradient's coordinates.
    """

    value: float
    values: Tensor
    terms: dict[str, float]
    standard_errors: dict[str, float]
    gradient: Params
    gradient_norm: float
    gradient_error: float


def moments(
    objective: Counted, params: Params, samples: Sequence[Sample], gradients: int | None = None
) -> Moments:
    """The moments at ``params``, by one gradient for each draw, or for the first ``gradients`` draws. A single draw has
    standard errors of 0.
    """
    mean: Params = {}
    spread = torch.zeros((), device="cpu")
    values, records = [], []
    number = len(samples) if gradients is None else min(gradients, len(samples))
    for sample in samples[number:]:
        terms = objective.mean_terms(params, [sample], objective.objective.active)
        records.append(terms)
        values.append(objective.objective.weigh(terms))
    for n, sample in enumerate(samples[:number], start=1):
        value, terms, gradient = objective.value_and_grad(params, sample)
        values.append(value)
        records.append(terms)
        # Welford's update: no list of gradients, no cancellation.
        change = gradient if not mean else {k: g - mean[k] for k, g in gradient.items()}
        mean = {k: c / n + mean[k] if mean else c for k, c in change.items()}
        rest = {k: g - mean[k] for k, g in gradient.items()}
        spread = spread.to(value) + dot(change, rest)
    stacked = {k: torch.stack([record[k] for record in records]) for k in records[0]}
    return Moments(
        value=float(torch.stack(values).mean()),
        values=torch.stack(values),
        terms={k: float(v.mean()) for k, v in stacked.items()},
        standard_errors={k: standard_error(v) for k, v in stacked.items()},
        gradient=mean,
        gradient_norm=float(square_norm(mean).sqrt()),
        gradient_error=float((spread / max(1, number - 1) / number).clamp_min(0).sqrt()),
    )


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of independent ``values``; 0 for a single value."""
    n = len(values)
    return float(values.std(correction=min(1, n - 1))) / n**0.5


def fresh_draws(
    objective: Objective,
    params: Params,
    batch_size: int | None,
    seed: int,
    level: Level | None = "full",
) -> Sequence[Sample]:
    """The draws of a certificate; none without one. Without data nothing varies, and one draw is enough."""
    count = 0 if level is None else 1 if objective.data is None else DRAWS
    numbers, weighted = range(count), level != "full"
    return objective.samples(params, batch_size, seed, Stream.FRESH, numbers, weighted=weighted)


@torch.no_grad()
def certify(
    objective: Objective,
    start: Params,
    params: Params,
    draws: Sequence[Sample],
    level: Level = "full",
    *,
    curved_on: Sequence[Sample] | None = None,
    restarts: Sequence[Params] = (),
    seed: int = 0,
) -> Certificate:
    """The certificate of ``params`` as a minimiser reached from ``start``.

    Args:
        objective: L.
        start: w0.
        params: w1.
        draws: The draws to measure on, from `fresh_draws`.
        level: "light" or "full".
        curved_on: Samples. The spectrum is that of the mean of their Hessians; None: no spectrum.
        restarts: Solutions from other starts.
        seed: Seed of the spectrum's first vector.
    """
    gradients = LIGHT_GRADIENTS if level == "light" else None
    before = moments(Counted(objective), start, draws, gradients)
    advance()
    counted = Counted(objective)
    after = moments(counted, params, draws, gradients)
    advance()
    error, unsettled = counted.search_error, counted.unsettled
    unit = before.gradient_norm or 1.0  # the ratio is 0 where both are 0
    ends = None
    if curved_on is not None:
        ends = spectrum(MeanHessian(counted, params, curved_on), params, seed)
    return Certificate(
        gradient_norm=after.gradient_norm / unit,
        gradient_norm_error=after.gradient_error / unit,
        start_gradient_norm=before.gradient_norm,
        curvature_along_gradient=(
            _curvature_along(counted, params, after, draws[0]) if level == "full" else None
        ),
        objective=after.value,
        start_objective=before.value,
        decrease_error=standard_error(before.values - after.values),
        terms=after.terms,
        standard_errors=after.standard_errors,
        draws=len(draws),
        dead_units=dead_units(after.gradient),
        spectrum=ends,
        restarts=tuple(_mean_value(counted, point, draws) for point in restarts),
        curvature_error=error,
        unsettled=unsettled,
    )


def verdict(outcome: Outcome, certificate: Certificate | None) -> Status:
    """The solver's status, unless the certificate contradicts a success. Without one it is the solver's own word.

    The sample is too small if the mean decrease on fresh draws is below half of the decrease on the frozen sample. A
    large ``decrease_error`` does not change that. It shows too that the draws are too small.
    """
    outcome = outcome.vouched(certificate)
    if outcome.status.failed or certificate is None:
        return outcome.status
    if outcome.saa_samples is not None:
        fresh = certificate.start_objective - certificate.objective
        if not holds(outcome, fresh):
            return Status.SAMPLE_TOO_SMALL  # the sample's own spectrum then says nothing of L
    if outcome.status is Status.SOLVED and certificate.unsettled:
        return Status.UNSETTLED
    ends = certificate.spectrum
    if ends is not None and ends.least < -flat(ends, outcome.params):
        return Status.SADDLE
    return outcome.status


def holds(outcome: Outcome, decrease: float) -> bool:
    """Whether a decrease on other draws is at least half of the decrease on the frozen sample."""
    return decrease >= (outcome.start_objective - outcome.objective) / 2


def _mean_value(objective: Counted, params: Params, draws: Sequence[Sample]) -> float:
    terms = objective.mean_terms(params, draws, objective.objective.active)
    return float(objective.objective.weigh(terms))


def _curvature_along(
    objective: Counted, params: Params, at: Moments, sample: Sample
) -> float | None:
    """gᵀ∇²L g / ‖g‖² by a central difference of gradients, which needs no fourth derivatives of L_4."""
    if not 0 < at.gradient_norm < float("inf"):
        return None
    direction = {name: g / at.gradient_norm for name, g in at.gradient.items()}
    precision = torch.finfo(next(iter(params.values())).dtype).eps
    h = precision ** (1 / 3) * max(1.0, float(square_norm(params).sqrt()))
    gradients = []
    for side in (h, -h):
        moved = {name: value + side * direction[name] for name, value in params.items()}
        gradients.append(float(dot(objective.value_and_grad(moved, sample)[2], direction)))
    curvature = (gradients[0] - gradients[1]) / (2 * h)
    return curvature if isfinite(curvature) else None


def dead_units(gradient: Params) -> dict[str, int]:
    """The number of dead units, by weight matrix or kernel. Weights without dead units are left out.

    A unit is dead if no gradient can ever move it. Its incoming weights are a row of the weight's first axis. Its
    outgoing weights are the entries of the next weight that read the unit. The second axis of the next weight has
    as many entries as there are units, or a multiple after flattening. If that axis has another size only the
    incoming weights are looked at. Both gradients must be exactly zero. If only one is zero the other weights move,
    and afterwards these move too. Growth by zeros makes dead units, and so does a ReLU that is off on all the data.

    Args:
        gradient: ∇L by the student's parameter names, in the model's order.

    Examples:
        >>> into, out = torch.ones(3, 2), torch.ones(4, 3)
        >>> into[2], out[:, 2] = 0, 0
        >>> dead_units({"0.weight": into, "2.weight": out})
        {'0.weight': 1}
    """
    weights = [(name, g) for name, g in gradient.items() if g.dim() >= 2 and g.numel()]
    counts = {}
    for i, (name, weight) in enumerate(weights):
        dead = _zero(weight)
        if i + 1 < len(weights):
            readers = weights[i + 1][1].transpose(0, 1)
            if len(readers) % len(dead) == 0:
                dead = dead & _zero(readers.reshape(len(dead), -1))
        counts[name] = int(dead.sum())
    return {name: count for name, count in counts.items() if count}


def _zero(rows: Tensor) -> Tensor:
    return (rows == 0).flatten(1).all(1)
