"""Intervals as sets of positions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamplan.geometry import Interval, hull


def positions(interval: Interval) -> set[int]:
    return set(range(interval.start, interval.stop))


INTERVALS = st.tuples(st.integers(-9, 9), st.integers(0, 9)).map(lambda pair: Interval(pair[0], sum(pair)))


@given(INTERVALS, st.integers(0, 9))
def test_clamp_intersects_with_the_map(interval: Interval, extent: int) -> None:
    clamped = interval.clamp(extent)
    assert positions(clamped) == positions(interval) & set(range(extent))
    assert 0 <= clamped.start <= clamped.stop <= extent


@given(INTERVALS, INTERVALS)
def test_contains_is_the_subset_relation(one: Interval, other: Interval) -> None:
    assert one.contains(other) == (positions(other) <= positions(one))


@given(INTERVALS, st.integers(-5, 5))
def test_relative_positions_add_up_again(interval: Interval, origin: int) -> None:
    assert {p + origin for p in positions(interval.relative_to(origin))} == positions(interval)


@given(st.lists(INTERVALS, max_size=4))
def test_hull_is_the_smallest_that_holds_all(intervals: list[Interval]) -> None:
    every = set().union(*map(positions, intervals))
    smallest = hull(intervals)
    if smallest is None:
        assert not every
    else:
        assert every <= positions(smallest)
        assert {smallest.start, smallest.stop - 1} <= every


def test_an_interval_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match=r"\[3, 2\) runs backwards"):
        Interval(3, 2)
