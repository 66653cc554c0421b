"""Back-fill: how ranges are parted into walks side by side, and what these learn from one another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from chandlery.backfill import Backfill, Want
from chandlery.candle import SeriesId
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.report import RunReport
from chandlery.sources import open_source
from chandlery.stores import open_store
from chandlery.testing.clock import VirtualClock
from chandlery.timeframe import DAY, HOUR
from chandlery.timerange import TimeRange
from chandlery.walks import PAGES_A_WALK, parts_of
from chandlery.when import parse_when

from .backfilling import HOURLY, NOW, run


@pytest.fixture(scope="module")
def exchange() -> Iterator[LocalExchange]:
    """A local exchange at half past twelve, for ever."""
    with LocalExchange(ExchangeSettings(clock="2024-06-20T12:30Z,0", weight_limit=0)) as running:
        yield running


@pytest.mark.parametrize("slots", [1, 998, 999, 40_000, 261_640, 5_000_003])
@pytest.mark.parametrize("walks", [1, 8, 32])
def test_parts_cost_no_request(slots: int, walks: int) -> None:
    """A long range is cut into whole pages less the overlap, large parts first; nothing is left out or there twice."""
    frame, fresh = HOURLY.frame, 999
    begin = frame.floor(NOW) - slots * HOUR
    parts = list(parts_of(TimeRange(begin, frame.floor(NOW)), frame, -(-slots // fresh), lambda: walks))
    assert [part.since for part in parts] == [begin, *(part.until for part in parts[:-1])]
    assert parts[-1].until == frame.floor(NOW)
    sizes = [frame.count(part.since, part.until) for part in parts]
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    least = -(-slots // fresh)
    assert sum(-(-(size + 1) // fresh) for size in sizes) <= 1.01 * least + 1
    assert len(parts) >= min(walks, least // (PAGES_A_WALK + 1))


def test_walks_of_a_quiet_market_learn_from_one_another(tmp_path: Path) -> None:
    """Of many walks side by side over a market of holes one learns what is usual; each part costs four requests more."""
    clock = VirtualClock(NOW)
    series = SeriesId("coinbase", "ZEC/BNB", "1m")
    settings = ExchangeSettings(exchange="coinbase", weight_limit=0)
    with LocalExchange(settings, clock=clock) as exchange, open_store(tmp_path / "candles") as store:
        since, until = NOW - 14 * DAY, NOW - DAY

        async def fetch() -> RunReport:
            state = tmp_path / "state"
            async with open_source("coinbase", url=exchange.url, clock=clock, state_dir=state) as source:
                return await Backfill(source, store).run([Want(series, since, until)])

        report = asyncio.run(fetch())
        assert report.ok
        assert store.candles(series).equals(exchange.truth(series.symbol, "1m", since, until))
        pages = sum(record.query.get("granularity") == "ONE_MINUTE" for record in exchange.requests)
        least = 13 * 1440 / 299
        assert pages <= 1.15 * least + 25 + 4 * least / PAGES_A_WALK


def test_no_listing_is_looked_for_where_the_range_begins_with_a_candle(
    exchange: LocalExchange, tmp_path: Path
) -> None:
    """Of a range of years whose first candle is there only that candle is asked for before the walks begin."""
    want = Want(HOURLY, parse_when("2020-01-01", now=0), parse_when("2024-01-01", now=0))
    before = len(exchange.requests)
    with open_store(tmp_path / "store") as store:
        report = run(exchange, store, [want])
    asked = [request.query for request in exchange.requests[before:] if request.path.endswith("/klines")]
    assert report.ok
    assert {query["interval"] for query in asked} == {"1h"}
    assert "0" not in {query.get("startTime") for query in asked}
    assert len(asked) <= 1.15 * -(-report.series[0].fetched // 999) + 25
