"""The algebra of axes: cutting and joining terms moves places as it moves coordinates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiopt.growth.axes import Mismatch, Term, cat, fixed, prod
from phiopt.growth.index_map import index_map, leaves
from phiopt.growth.unify import split_cat, split_prod, unify

UNTIMED = settings(deadline=None)  # a busy machine fails no test
sizes = st.tuples(st.integers(1, 4), st.integers(0, 3)).map(lambda x: (x[0], x[0] + x[1]))


@UNTIMED
@given(st.lists(sizes, min_size=1, max_size=4))
def test_a_concatenation_puts_each_part_behind_the_one_before(parts):
    starts = np.cumsum([0, *(s for _, s in parts)])
    expected = np.concatenate([o + np.arange(t) for (t, _), o in zip(parts, starts, strict=False)])
    assert np.array_equal(index_map(cat([Term(*p) for p in parts])), expected)


@UNTIMED
@given(st.lists(sizes, min_size=1, max_size=3))
def test_a_product_is_row_major(factors):
    grid = np.arange(np.prod([s for _, s in factors])).reshape([s for _, s in factors])
    expected = grid[tuple(slice(t) for t, _ in factors)].ravel()
    assert np.array_equal(index_map(prod([Term(*f) for f in factors])), expected)


@UNTIMED
@given(st.lists(sizes, min_size=1, max_size=4))
def test_cutting_a_free_axis_makes_it_the_concatenation_of_its_pieces(parts):
    whole = Term(sum(t for t, _ in parts), sum(s for _, s in parts))
    pieces = split_cat(whole, parts)
    assert [p.size for p in pieces] == parts
    assert np.array_equal(index_map(whole), index_map(cat([Term(*p) for p in parts])))


@UNTIMED
@given(st.lists(sizes, min_size=1, max_size=3))
def test_factoring_a_free_axis_makes_it_the_product_of_its_factors(factors):
    t, s = np.prod([f[0] for f in factors]), np.prod([f[1] for f in factors])
    whole = Term(int(t), int(s))
    assert [f.size for f in split_prod(whole, factors)] == factors
    assert np.array_equal(index_map(whole), index_map(prod([Term(*f) for f in factors])))


@UNTIMED
@given(st.data(), st.integers(1, 5), st.integers(1, 5))
def test_two_ways_to_cut_one_axis_agree_on_places_that_respect_both(data, t, extra):
    s = t + extra
    cuts = []
    for _ in range(2):
        a = data.draw(st.integers(0, t))
        b = data.draw(st.integers(a, s - t + a))
        cuts.append((a, b))
    x, y = Term(t, s), Term(t, s)
    for term, (a, b) in zip((x, y), cuts, strict=True):
        split_cat(term, [(a, b), (t - a, s - b)])
    try:
        unify(x, y)
    except Mismatch:
        return
    assert np.array_equal(index_map(x), index_map(y))
    for a, b in cuts:
        where = index_map(x)
        assert (where[:a] < b).all()
        assert (where[a:] >= b).all()


def test_a_shuffled_concatenation_interleaves_its_parts():
    a, b = Term(2, 3), fixed(np.array([0, 2]), 3)
    lead, each = split_prod(cat([a, b]), [(2, 2), (2, 3)])
    # teacher: a0 b0 a1 b1; student: a0 b0 a1 b1 a2 b2 with a at 0, 1 and b at 0, 2
    assert index_map(prod([each, lead])).tolist() == [0, 1, 2, 5]


def test_halving_a_shuffled_concatenation_cuts_each_part():
    a, b = Term(4, 6), Term(4, 6)
    lead, each = split_prod(cat([a, b]), [(2, 2), (4, 6)])
    left, right = split_cat(prod([each, lead]), [(4, 6), (4, 6)])
    assert left.size == right.size == (4, 6)
    assert index_map(a).tolist() == [0, 1, 3, 4]


def test_an_odd_half_leaves_the_student_a_row_of_its_own():
    factors = split_prod(Term(8, 20), [(4, 10), (2, 2)])
    first, second = split_cat(prod(factors), [(4, 11), (4, 9)])
    assert index_map(factors[0]).tolist() == [0, 1, 6, 7]
    assert index_map(first).tolist() == [0, 1, 2, 3]
    assert index_map(second).tolist() == [1, 2, 3, 4]


def test_given_places_are_handed_to_the_parts_of_an_axis():
    whole = cat([Term(2, 4), Term(1, 3)])
    unify(whole, fixed(np.array([1, 3, 4]), 7))
    assert index_map(whole).tolist() == [1, 3, 4]
    assert len(list(leaves(whole))) == 2


@pytest.mark.parametrize(
    "places_given",
    [np.array([1, 4, 5]), np.array([4, 0, 1])],
    ids=["one leaves its piece", "order broken"],
)
def test_given_places_that_leave_their_piece_are_refused(places_given):
    with pytest.raises(Mismatch):
        unify(cat([Term(2, 4), Term(1, 3)]), fixed(places_given, 7))


def test_axes_of_other_sizes_do_not_meet():
    with pytest.raises(Mismatch, match="2 -> 4 and 2 -> 5"):
        unify(Term(2, 4), Term(2, 5))


def test_a_shrinking_axis_is_refused():
    with pytest.raises(Mismatch, match="do not fit"):
        Term(3, 2)
