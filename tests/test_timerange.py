"""Sets of ranges behave as sets of moments do."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chandlery.timerange import RangeSet, TimeRange

moments = st.integers(-30, 30)
ranges = st.tuples(moments, moments).map(lambda pair: TimeRange(min(pair), max(pair)))
range_sets = st.lists(ranges, max_size=8).map(RangeSet)


def moments_of(wanted: RangeSet) -> set[int]:
    """The model: every moment of the set."""
    return {moment for part in wanted for moment in range(part.since, part.until)}


@given(st.lists(ranges, max_size=8))
def test_set_holds_the_moments_of_its_ranges(parts: list[TimeRange]) -> None:
    """A set holds what its ranges hold, as ascending ranges that neither touch nor are empty."""
    whole = RangeSet(parts)
    assert moments_of(whole) == {m for part in parts for m in range(part.since, part.until)}
    assert all(a.until < b.since for a, b in pairwise(whole))
    assert all(whole)
    assert all((m in whole) == (m in moments_of(whole)) for m in range(-31, 32))
    assert bool(whole) == bool(moments_of(whole))


@given(range_sets, range_sets)
def test_algebra_is_that_of_sets(a: RangeSet, b: RangeSet) -> None:
    """Union, intersection and difference are those of the moments, and equal sets are equal."""
    assert moments_of(a | b) == moments_of(a) | moments_of(b)
    assert moments_of(a & b) == moments_of(a) & moments_of(b)
    assert moments_of(a - b) == moments_of(a) - moments_of(b)
    assert (a == b) == (moments_of(a) == moments_of(b))
    assert (a - b) | (a & b) == a
    assert hash(a | b) == hash(b | a)


@given(ranges, ranges)
def test_ranges_meet_as_sets_do(a: TimeRange, b: TimeRange) -> None:
    """Two ranges share what their sets share, and None where that is nothing."""
    shared = a.intersect(b)
    assert moments_of(RangeSet([shared] if shared else [])) == moments_of(RangeSet([a])) & moments_of(
        RangeSet([b])
    )


def test_ends_of_a_set() -> None:
    """A set knows its first moment and its end; an empty one has neither, and a range does not run backwards."""
    whole = RangeSet([TimeRange(5, 9), TimeRange(1, 2)])
    assert (whole.since, whole.until, len(whole)) == (1, 9, 2)
    assert RangeSet.of(3, 3) == RangeSet.of(4, 3) == RangeSet()
    for question in (lambda: RangeSet().since, lambda: RangeSet().until, lambda: TimeRange(2, 1)):
        with pytest.raises(ValueError, match=r"empty|before"):
            question()
