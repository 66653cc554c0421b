"""Timeframes lay every candle on the calendar exactly once."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chandlery.errors import UnknownTimeframe, UsageError
from chandlery.timeframe import DAY, MONDAY, Timeframe, parse_timeframe

TEXTS = (
    "1s",
    "1m",
    "3m",
    "5m",
    "15m",
    "1h",
    "4h",
    "12h",
    "1d",
    "3d",
    "1w",
    "2w",
    "1M",
    "3M",
    "6M",
    "1y",
    "7m",
    "5d",
)
frames = st.sampled_from(TEXTS).map(parse_timeframe)
moments = st.integers(-2_000_000_000_000, 4_000_000_000_000)  # 1906 to 2096


@given(frames, moments)
def test_every_moment_lies_in_one_candle(frame: Timeframe, moment: int) -> None:
    """Floor <= moment < next(floor); ceil is floor or the next; the slot's open time is the floor."""
    opened = frame.floor(moment)
    assert opened <= moment < frame.next(opened)
    assert frame.ceil(moment) == (opened if opened == moment else frame.next(opened))
    assert frame.open_of(frame.slot(moment)) == opened
    assert frame.floor(opened) == frame.ceil(opened) == opened
    assert frame.next(frame.floor(opened - 1)) == opened


@given(frames, moments, st.integers(-500, 500))
def test_counting_agrees_with_stepping(frame: Timeframe, moment: int, candles: int) -> None:
    """Add goes as many candles as count counts, there and back."""
    opened = frame.floor(moment)
    other = frame.add(opened, candles)
    low, high = sorted((opened, other))
    assert frame.count(low, high) == abs(candles)
    assert frame.add(other, -candles) == opened
    assert frame.count(moment, moment) == frame.count(high + 1, low) == 0


@given(frames, moments, st.integers(0, 300), st.integers(0, 10**8))
def test_opens_are_the_open_times_between(frame: Timeframe, since: int, candles: int, more: int) -> None:
    """Opens lists exactly the open times in the range, as count says, and each is aligned with its slot."""
    until = min(frame.add(frame.floor(since), candles) + more, frame.add(frame.floor(since), 400))
    opens = frame.opens(since, until)
    assert opens.dtype == np.int64
    assert len(opens) == frame.count(since, until)
    assert all(since <= opened < until for opened in opens.tolist())
    assert all(frame.floor(opened) == opened for opened in opens.tolist())
    assert frame.aligned(opens).all()
    assert frame.slots(opens).tolist() == [frame.slot(opened) for opened in opens.tolist()]


@given(frames, st.lists(moments, max_size=20))
def test_arrays_agree_with_single_moments(frame: Timeframe, several: list[int]) -> None:
    """Slots and aligned say of each moment what slot and floor say."""
    array = np.array(several, dtype=np.int64)
    assert frame.slots(array).tolist() == [frame.slot(moment) for moment in several]
    assert frame.aligned(array).tolist() == [frame.floor(moment) == moment for moment in several]


@given(st.sampled_from((1, 2, 3, 6, 12)), moments)
def test_months_go_by_the_calendar(size: int, moment: int) -> None:
    """A month's candle opens at midnight UTC of a first, and its neighbour so many months later."""
    frame = Timeframe(size, "M")
    opened, closed = (
        datetime.fromtimestamp(t // 1000, UTC) for t in (frame.floor(moment), frame.next(frame.floor(moment)))
    )
    assert (opened.day, opened.hour, opened.minute, opened.second) == (1, 0, 0, 0)
    assert (closed.year - opened.year) * 12 + closed.month - opened.month == size


def test_weeks_open_on_mondays_unless_anchored() -> None:
    """A week opens on Monday 00:00 UTC; an anchor moves it, and anchored timeframes are not the usual ones."""
    assert (
        datetime.fromtimestamp(parse_timeframe("1w").floor(1_704_067_200_000 + 5 * DAY) / 1000, UTC).weekday()
        == 0
    )
    thursday = parse_timeframe("1w", 0)
    assert thursday.floor(10 * DAY) == 7 * DAY
    assert parse_timeframe("1w").anchor == MONDAY
    assert thursday != parse_timeframe("1w")


@pytest.mark.parametrize(
    "text", ["", "m", "0m", "01m", "1", "1H", "1D", "5 m", "1min", "-1m", "1m\n", "12345m", "\uff11m", "1.5h"]
)
def test_what_is_not_a_timeframe_is_refused(text: str) -> None:
    """Anything but a number and a unit is refused as a usage error that says what to write."""
    with pytest.raises(UnknownTimeframe) as error:
        parse_timeframe(text)
    assert isinstance(error.value, UsageError)
    assert "1h" in error.value.hint


@pytest.mark.parametrize("text", TEXTS)
def test_text_reads_back(text: str) -> None:
    """A timeframe's text is what it was read from, and longer ones have longer nominal lengths."""
    assert parse_timeframe(text).text == text
    assert parse_timeframe("1m").nominal_ms < parse_timeframe("1M").nominal_ms
