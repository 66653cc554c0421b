"""Moments as people write them, and the slips that are refused."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import pytest

from chandlery.errors import UnknownTimeframe, UsageError
from chandlery.when import parse_when

NOW = 1_717_200_600_000  # 2024-06-01T00:10Z


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("1716681600", r"did you mean seconds \(2024-05-26T00:00:00Z\)\? epoch times are in milliseconds"),
        (1716681600, r"did you mean seconds \(2024-05-26T00:00:00Z\)"),
        (1716681600.0, r"did you mean seconds \(2024-05-26T00:00:00Z\)"),
        ("20240501", r"did you mean 2024-05-01\?"),
        (20240501, r"did you mean 2024-05-01\?"),
        (99999999, "epoch times are in milliseconds"),
        (2024, "write an earlier moment as a date"),
    ],
    ids=repr,
)
def test_a_number_that_means_a_time_before_any_coin_is_refused(value: Any, hint: str) -> None:
    """Epoch seconds and the digits of a date are refused with what was probably meant, not taken as 1970."""
    with pytest.raises(UsageError, match="is 1970-01-"):
        parse_when(value, now=NOW)
    with pytest.raises(UsageError) as error:
        parse_when(value, now=NOW)
    assert re.search(hint, error.value.hint)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1970-01-01", 0),
        (date(1970, 1, 2), 86_400_000),
        (datetime(2001, 1, 1, tzinfo=UTC), 978_307_200_000),
        (0, 0),
        ("1716681600000", 1_716_681_600_000),
        (1_230_768_000_000, 1_230_768_000_000),  # 2009-01-01
        ("now", NOW),
    ],
)
def test_dates_and_milliseconds_stay_what_they_are(value: Any, expected: int) -> None:
    """A date may be of any year from 1970 on; a number is milliseconds from 2009 on, or 0."""
    assert parse_when(value, now=NOW) == expected


def test_listing_is_a_beginning_only() -> None:
    """`listing` where an end is read says that only --since takes it."""
    with pytest.raises(UsageError) as error:
        parse_when("listing", now=NOW)
    assert "only --since" in error.value.hint


def test_a_series_that_cannot_be_is_refused() -> None:
    """A SeriesId names what is wrong with it: the timeframe, a symbol that is no text, the kind."""
    from chandlery.candle import SeriesId

    with pytest.raises(UnknownTimeframe, match="1x"):
        SeriesId("binance", "BTC/USDT", "1x")
    nothing: Any = None
    with pytest.raises(UsageError, match="symbol is None"):
        SeriesId("binance", nothing, "1h")
    with pytest.raises(UsageError, match="kind of candles: 'bid'"):
        SeriesId("binance", "BTC/USDT", "1h", "bid")
