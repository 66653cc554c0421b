"""What searches for the ends of a market cost, on every exchange played, and that they find what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chandlery.backfill import Backfill
from chandlery.candle import SeriesId
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.shapes import SHAPES
from chandlery.report import RunReport
from chandlery.sources.base import Source
from chandlery.stores import open_store
from chandlery.timeframe import DAY, MINUTE
from chandlery.wanted import Want
from chandlery.when import iso, parse_when

NOW = 1_717_200_030_000  # 2024-06-01T00:00:30Z
SWAP = "BTC/USDT:USDT"


class _Clock:
    def now_ms(self) -> int:
        return NOW


@pytest.fixture(scope="module")
def playing() -> Iterator[LocalExchange]:
    """One server that plays every exchange."""
    with LocalExchange(ExchangeSettings(exchange=tuple(SHAPES), weight_limit=0), clock=_Clock()) as exchange:
        yield exchange


@pytest.fixture
def fetched(
    playing: LocalExchange, opened: Callable[..., Source], tmp_path: Path
) -> Callable[..., tuple[RunReport, Source]]:
    """Fetch series of one exchange into a new store: what the run says, and the source with its traffic."""

    def fetch(
        exchange: str, *series: tuple[str, str], since: Any = "listing", until: int | None = None
    ) -> tuple[RunReport, Source]:
        async def run() -> tuple[RunReport, Source]:
            wants = [Want(SeriesId(exchange, symbol, text), since, until) for symbol, text in series]
            store = open_store(tmp_path / "candles")
            try:
                async with opened(playing.url_of(exchange), exchange) as source:
                    return await Backfill(source, store).run(wants), source
            finally:
                store.close()

        return asyncio.run(run())

    return fetch


def at(text: str) -> int:
    """Epoch ms of a day."""
    return parse_when(text, now=NOW)


def counts(report: RunReport) -> dict[str, int]:
    """Slots of all series by state, those that are not nought."""
    told = [(str(state), count) for one in report.series if one.counts for state, count in one.counts.items()]
    return {state: sum(n for s, n in told if s == state) for state in {s for s, n in told if n}}


@pytest.mark.parametrize("symbol", ["BTC/USDT", SWAP])
def test_depth_beyond_1970(fetched: Callable[..., tuple[RunReport, Source]], symbol: str) -> None:
    """Gate gives its last 10,000 weeks, which is all there are: no answer is asked for from before 1970."""
    report, source = fetched("gate", (symbol, "1w"))
    assert [one.error for one in report.series] == [None]
    assert set(counts(report)) <= {"stored", "pending"}
    assert counts(report)["stored"] > 200
    assert source.traffic.retries == 0


@pytest.mark.parametrize("text", ["1h", "1d", "1w", "1M"])
def test_begin_where_answers_cover_90_days(
    fetched: Callable[..., tuple[RunReport, Source]], text: str
) -> None:
    """Bitget's answers about swaps cover 90 days at most: the first candle is found all the same, with no ask repeated."""
    report, source = fetched("bitget", (SWAP, text), until=at("2019-11-01"))
    assert [one.error for one in report.series] == [None]
    assert iso(report.series[0].span.since) in {
        "2019-09-08T17:00:00Z",
        "2019-09-08T00:00:00Z",
        "2019-09-02T00:00:00Z",
        "2019-09-01T00:00:00Z",
    }
    assert set(counts(report)) == {"stored"}
    assert source.traffic.retries == 0
    assert source.traffic.candle_requests < 30


def test_a_year_before_the_listing(fetched: Callable[..., tuple[RunReport, Source]]) -> None:
    """A year of hours from before a swap was listed is before the listing, in a few requests."""
    report, source = fetched("bitget", (SWAP, "1h"), since=at("2016-01-01"), until=at("2017-01-01"))
    assert counts(report) == {"before_listing": 8784}
    assert source.traffic.candle_requests <= 20


def test_no_closed_week_yet(fetched: Callable[..., tuple[RunReport, Source]]) -> None:
    """A swap listed this week has no closed weekly candle: what was asked for is before its listing."""
    report, source = fetched("bitget", ("IO/USDT:USDT", "1w"), since=at("2024-01-01"))
    assert counts(report) == {"before_listing": 21, "pending": 1}
    assert source.traffic.candle_requests <= 10


@pytest.mark.parametrize("days", [20, 90, 200])
def test_windows_shorter_than_known(
    tiny: Any, opened: Callable[..., Source], make_klines: Callable[[int, int], Any], days: int
) -> None:
    """Where answers cover less time than anyone knew, whatever the timeframe, that is learnt on the way to the first candle."""
    first = NOW // MINUTE * MINUTE - 900 * DAY + 77 * MINUTE
    starts = [first + day * DAY for day in range(900)]
    rows = [row for start in starts for row in make_klines(start, 1)]
    exchange = tiny(rows, page=500, bounded=True)
    exchange.answer = lambda query, due: [
        row for row in due if row[0] < int(query.get("startTime", 0)) + days * DAY
    ]

    async def main() -> Any:
        async with exchange.serving() as url, opened(url, "mexc") as source:
            return await source.listing(SeriesId("mexc", "BTC/USDT", "1m")), source.traffic.candle_requests

    found, cost = asyncio.run(main())
    assert found == first
    assert cost < 60


@pytest.mark.parametrize(
    ("exchange", "symbol", "candles", "pages"),
    [("binanceusdm", "SRM/USDT:USDT", 19_482, 40), ("binance", "BCC/USDT", 8_778, 9)],
)
def test_market_that_ended(
    fetched: Callable[..., tuple[RunReport, Source]], exchange: str, symbol: str, candles: int, pages: int
) -> None:
    """Of many walks over years after the end of a market one looks for it: few requests more than the pages."""
    report, source = fetched(exchange, (symbol, "1h"))
    assert [one.error for one in report.series] == [None]
    assert counts(report)["stored"] == candles
    assert set(counts(report)) == {"stored", "absent", "after_end", "pending"}
    assert source.traffic.candle_requests <= 1.15 * pages + 25


def test_hole_of_many_walks(
    tiny: Any, opened: Callable[..., Source], make_klines: Callable[[int, int], Any], tmp_path: Path
) -> None:
    """Of many walks that begin in one long hole one looks across it, and no minute of it is missing."""
    last = NOW // MINUTE * MINUTE
    begin = last - 200_000 * MINUTE
    rows = make_klines(begin, 20_000) + make_klines(last - 20_000 * MINUTE, 20_001)
    exchange = tiny(rows)

    async def main() -> Any:
        store = open_store(tmp_path / "candles")
        try:
            async with exchange.serving() as url, opened(url, "binance") as source:
                want = Want(SeriesId("binance", "BTC/USDT", "1m"), begin, last)
                return await Backfill(source, store).run([want]), source.traffic.candle_requests
        finally:
            store.close()

    report, cost = asyncio.run(main())
    assert counts(report) == {"stored": 40_000, "absent": 160_000}
    walks = 25  # each asks once where it is to begin
    assert cost <= 1.15 * 42 + walks + 25


@pytest.mark.parametrize(
    ("exchange", "symbols", "least"),
    [("mexc", (SWAP, "IO/USDT:USDT"), 3), ("kraken", ("BTC/USDT", "ETH/USDT"), 4)],
)
def test_answers_that_reach_up_to_now(
    fetched: Callable[..., tuple[RunReport, Source]],
    caplog: pytest.LogCaptureFixture,
    exchange: str,
    symbols: tuple[str, str],
    least: int,
) -> None:
    """An answer that holds all there is from 1970 on is asked for twice, not six times; nothing is said of its beginning."""
    since = "listing" if exchange == "mexc" else at("2017-01-01")
    report, source = fetched(exchange, *((s, text) for s in symbols for text in ("1d", "1w")), since=since)
    assert [one.error for one in report.series] == [None] * 4
    assert "missing" not in counts(report)
    assert [one.message for one in caplog.records if "its profile says" in one.message] == []
    assert source.traffic.candle_requests <= least + 5 * 4
