"""Summaries over seeds against values known by hand and against a plain bootstrap."""

from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.statistics import (
    area_under_curve,
    holm,
    paired_difference,
    paired_p_value,
    summary,
)


def test_summary_is_the_mean_and_the_sample_standard_deviation():
    assert summary([1.0, 2.0, 6.0]) == pytest.approx((3.0, np.sqrt(7.0)))
    assert summary([4.0]) == (4.0, 0.0)
    assert summary([0.5, 0.25]).text(2) == "0.38 ± 0.18"


@pytest.mark.slow
def test_paired_difference_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        theirs = rng.normal(size=25)
        ours = theirs + 0.5 + rng.normal(size=25)
        actual = paired_difference(ours, theirs)
        assert actual.mean == pytest.approx(np.mean(ours - theirs))
        covered += actual.low <= 0.5 <= actual.high
    # A 95 % interval, 200 trials: outside [178, 200] has a chance below 1 in 1,000 at 93 %.
    assert 176 <= covered <= 200


def test_paired_difference_cancels_what_the_seeds_share():
    shared = np.array([0.0, 5.0, -3.0, 8.0, 1.0])
    actual = paired_difference(shared + np.array([0.1, 0.2, 0.1, 0.2, 0.1]), shared)
    assert 0.1 <= actual.low <= actual.mean <= actual.high <= 0.2


@pytest.mark.parametrize("differences", [[0.3, 0.1], [0.0, 0.0, 1.0], [-1.0, 2.0, 0.5]])
def test_few_seeds_give_an_interval_within_what_was_seen(differences):
    actual = paired_difference(differences, [0.0] * len(differences))
    assert min(differences) <= actual.low <= actual.high <= max(differences)


def test_equal_differences_have_an_interval_of_no_width():
    assert paired_difference([1.5, 2.5], [1.0, 2.0]) == (0.5, 0.5, 0.5)


def test_one_pair_has_no_interval():
    actual = paired_difference([1.0], [0.5])
    assert actual.mean == 0.5
    assert isnan(actual.low)
    assert isnan(actual.high)


def test_area_is_the_mean_height_on_an_uneven_grid():
    assert area_under_curve([0, 1, 4], [0.0, 1.0, 1.0]) == pytest.approx((0.5 + 3.0) / 4)


def test_the_paired_t_test_by_hand():
    # Differences 1, 2, 3: mean 2, standard error 1/√3, t = 2√3 with two degrees of freedom, where
    # the two-sided p-value is 1 - t / √(2 + t²).
    t = 2 * np.sqrt(3)
    assert paired_p_value([1.0, 3.0, 3.5], [0.0, 1.0, 0.5]) == pytest.approx(
        1 - t / np.sqrt(2 + t**2)
    )


def test_p_values_without_spread_or_pairs():
    assert paired_p_value([0.5, 0.25], [0.5, 0.25]) == 1
    assert paired_p_value([1.5, 1.25], [0.5, 0.25]) == 0
    assert isnan(paired_p_value([1.0], [0.5]))


def test_holms_own_steps():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"p_values: got \[1\.5\], each must lie in \[0, 1\]"):
        holm([1.5])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_raw_values_and_bonferronis(p):
    adjusted = np.array(holm(p))
    raw = np.array(p)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(len(p) * raw, 1) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(raw, kind="stable")]) >= 0).all()
    assert adjusted[np.argmin(raw)] == min(len(p) * raw.min(), 1)
