"""What the answers of a run show against the profile: differences are told once with their mend, faults are not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.candle import SeriesId
from chandlery.exchange import LocalExchange
from chandlery.exchange.shapes import SHAPES
from chandlery.sources.base import Source
from chandlery.sources.observed import Observed
from chandlery.sources.profile import SPOT, Habits
from chandlery.timeframe import DAY, HOUR, MINUTE
from chandlery.timerange import TimeRange

from .profiles import BTC, CURRENT, HAS_SWAPS, NOW, SWAP, learn


async def _walk_a_day(
    source: Callable[..., Source], walk: Any, name: str, symbol: str = BTC, days: int = 4
) -> None:
    async with source(name) as one:
        span = TimeRange(CURRENT - days * DAY, CURRENT - HOUR)
        walked = await walk(one, SeriesId(name, symbol, "1m"), span, settle=0)
        assert walked.error is None
        assert not walked.left(span)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_nothing_is_told_where_the_profile_holds(
    name: str, source: Callable[..., Source], walk: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A run over busy, quiet and young markets, short and long timeframes, shows nothing that the shipped profile does not say."""
    symbols = [BTC, "ETH/USDT", "LTC/USDT", "ZEC/BNB", "IO/USDT"]
    if name == "binanceusdm":
        symbols = [SWAP, "ETH/USDT:USDT", "SOL/USDT:USDT", "IO/USDT:USDT"]
    elif name in HAS_SWAPS:
        symbols += [SWAP, "IO/USDT:USDT"]

    async def run() -> None:
        async with source(name) as one:
            for symbol in symbols:
                for timeframe, length in (("1m", 2 * DAY), ("1h", 90 * DAY), ("1d", 900 * DAY)):
                    span = TimeRange(CURRENT - length, CURRENT - HOUR)
                    walked = await walk(one, SeriesId(name, symbol, timeframe), span, settle=0)
                    assert walked.error is None

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert [record.getMessage() for record in caplog.records if "profile" in record.getMessage()] == []


@pytest.mark.parametrize(
    ("name", "habits", "says", "shows"),
    [
        ("bybit", {"page": 1500}, "page = 1500", "1000 candles at most"),
        ("mexc", {"page": 1000}, "page = 1000", "500 candles at most"),
        ("okx", {"order": "ascending"}, "order = ascending", "descending rows"),
        ("binance", {"order": "descending"}, "order = descending", "ascending rows"),
        ("gate", {"begin": "exclusive"}, "begin = exclusive", "the candle at the beginning given"),
        ("kraken", {"depth": {"*": 300}}, "depth = {'*': 300}", "candles as old as"),
        ("kraken", {"depth": {"*": 5000}}, "depth = {'*': 5000}", "nothing older than 2024-05-31T12:01:00Z"),
        ("kraken", {"depth": {}}, "depth = all", "nothing older than 2024-05-31T12:01:00Z"),
        ("coinbase", {"empty": "flat"}, "empty = flat", "holes and not one candle of volume 0"),
        ("bitget", {"empty": "omitted"}, "empty = omitted", "candles of volume 0 and no hole"),
    ],
)
def test_a_difference_is_told_with_its_mend(
    name: str,
    habits: dict[str, Any],
    says: str,
    shows: str,
    source: Callable[..., Source],
    walk: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A profile that is wrong in one habit costs one warning with the exchange, the habit, both values and the command."""
    learn(tmp_path, name, **habits)
    symbol = "ZEC/BNB" if "empty" in habits else BTC
    if "depth" in habits:
        symbol = BTC
    with caplog.at_level(logging.WARNING):
        asyncio.run(_walk_a_day(source, walk, name, symbol))
    told = [record.getMessage() for record in caplog.records if "profile says" in record.getMessage()]
    assert len(told) == 1, told
    for part in (name, says, shows, f"chandlery probe {name}"):
        assert part in told[0]


def test_a_depth_that_proves_wrong_loses_nothing(
    server: LocalExchange, source: Callable[..., Source], walk: Any, tmp_path: Path
) -> None:
    """Where a profile says 300 candles and older ones come, all of them are fetched, and none is called out of reach."""
    learn(tmp_path, "kraken", depth={"*": 300})
    span = TimeRange(CURRENT - 10 * HOUR, CURRENT)

    async def run() -> Any:
        async with source("kraken") as kraken:
            return await walk(kraken, SeriesId("kraken", BTC, "1m"), span, settle=0)

    walked = asyncio.run(run())
    assert (walked.error, walked.facts) == (None, [])
    assert walked.candles.equals(server.truth(BTC, "1m", span.since, span.until, exchange="kraken"))


def test_what_a_fault_shows_once_is_not_told() -> None:
    """Order, page and beginning of single answers, and what others contradict, are no difference; what all show is one."""
    import polars as pl

    habits = Habits(page=500, begin="inclusive", order="ascending", empty="flat")
    frame = SeriesId("x", BTC, "1m").frame
    since = CURRENT - 2 * DAY

    def rows(first: int, count: int, *, descending: bool = False) -> pl.DataFrame:
        times = [first + n * MINUTE for n in range(count)]
        data = {"time": times[::-1] if descending else times, "volume": [1.0] * count}
        return pl.DataFrame(data).with_columns(pl.col("time").cast(pl.Datetime("ms", "UTC")))

    def saw(seen: Observed, answer: pl.DataFrame, start: int = since) -> None:
        seen.saw(SPOT, habits, frame, answer, since=start, limit=500, now=NOW)

    seen = Observed("x")
    for n in range(20):
        start = since + n * 500 * MINUTE // 10
        saw(seen, rows(start, 500), start)
    saw(seen, rows(since, 200))  # cut once, and once more with another length
    saw(seen, rows(since, 100))
    saw(seen, rows(since, 500, descending=True))
    saw(seen, rows(since + MINUTE, 500))
    assert seen.differences() == []

    seen = Observed("x")
    for _ in range(9):  # nothing is known to have been before the first candle of all
        saw(seen, rows(since + MINUTE, 500))
    assert seen.differences() == []

    seen = Observed("x")
    for n in range(4):  # what the first of them leaves out may not be there at all
        start = since + n * 200 * MINUTE
        saw(seen, rows(start + MINUTE, 200, descending=True), start)
    assert [difference.habit for difference in seen.differences()] == ["order", "begin"]
    seen = Observed("x")
    for n in range(3):
        start = since + n * 200 * MINUTE
        saw(seen, rows(start, 200), start)
    assert [(d.habit, d.profile, d.seen) for d in seen.differences()] == [
        ("page", "500", "200 candles at most, 3 times")
    ]
    seen.tell()
    assert seen.differences() == []


def test_every_answer_that_is_no_full_page_is_looked_at_and_few_of_a_long_walk() -> None:
    """Of thousands of full pages every sixteenth is looked at after the first thirty, of each series by itself."""
    seen = Observed("x")

    assert sum(seen.wants(BTC, "1m", 1000, 1000) for _ in range(30 + 16 * 100)) == 130
    assert all(seen.wants(BTC, "1m", 999, 1000) for _ in range(100))
    assert all(seen.wants(BTC, "1h", 1000, 1000) for _ in range(30))
    assert all(seen.wants("ETH/USDT", "1m", 1000, 1000) for _ in range(30))
