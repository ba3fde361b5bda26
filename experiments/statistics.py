"""Summaries over seeds: mean and spread, paired differences with bootstrap intervals, and tests."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.integrate import trapezoid
from scipy.stats import bootstrap, ttest_rel


class Summary(NamedTuple):
    """Mean and sample standard deviation (0 for a single value)."""

    mean: float
    sd: float

    def text(self, digits: int = 3) -> str:
        return f"{self.mean:.{digits}f} ± {self.sd:.{digits}f}"


class Difference(NamedTuple):
    """Mean paired difference and its 95 % interval (NaN ends for fewer than two pairs)."""

    mean: float
    low: float
    high: float


def summary(values: Sequence[float]) -> Summary:
    return Summary(
        float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    )


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Mean of ours - theirs, seed by seed, with the BCa bootstrap interval (Efron 1987; SciPy's).

    With three seeds there are ten distinct resamples: read such an interval as a rough one.
    """
    differences = np.subtract(ours, theirs)
    mean = float(differences.mean())
    if len(differences) < 2:
        return Difference(mean, float("nan"), float("nan"))
    if np.ptp(differences) == 0:
        # BCa's acceleration is 0/0 here; the resampled mean is always this one.
        return Difference(mean, mean, mean)
    interval = bootstrap(
        (differences,), np.mean, method="BCa", random_state=np.random.default_rng(0)
    ).confidence_interval
    return Difference(mean, float(interval.low), float(interval.high))


def area_under_curve(x: Sequence[float], y: Sequence[float]) -> float:
    """Trapezoidal area divided by the length of x: the mean height of the curve."""
    return float(trapezoid(y, x) / (x[-1] - x[0]))


def paired_p_value(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test (SciPy's); NaN for fewer than two pairs.

    It takes the differences to be normal, which few seeds cannot show. A test without that, by flipping
    signs, gives no p-value below 2¹⁻ⁿ with n seeds: .25 with three.
    """
    differences = np.subtract(ours, theirs)
    if len(differences) < 2:
        return float("nan")
    if np.ptp(differences) == 0:
        # The statistic is 0/0 or infinite.
        return 1.0 if differences[0] == 0 else 0.0
    return float(ttest_rel(ours, theirs).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm, 1979); those ≤ α are significant with familywise error α.

        p̃_(i) = max_{j ≤ i} min(1, (m - j + 1) p_(j))

    In the order given. Raises ``ValueError`` for a value outside [0, 1].
    """
    p = np.asarray(p_values, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values: got {list(p_values)}, each must lie in [0, 1]")
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    stepped = (len(p) - np.arange(len(p))) * p[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted.tolist()
