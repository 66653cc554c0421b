"""Exchanges of other habits than Binance's: bounded windows, short depth, bad rows for good, silent ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from chandlery.candle import SeriesId
from chandlery.errors import BadAnswer, ExchangeRefused, UnknownSymbol, UnknownTimeframe
from chandlery.ledger import State
from chandlery.timerange import TimeRange

MINUTE = 60_000
DAY = 1440 * MINUTE
NOW = 1_717_200_030_000
LAST = NOW // MINUTE * MINUTE
BTC = SeriesId("binance", "BTC/USDT", "1m")
MEXC = SeriesId("mexc", "BTC/USDT", "1m")


def without(rows: list[Any], since: int, until: int) -> list[Any]:
    """Rows with a hole in [since, until)."""
    return [row for row in rows if not since <= row[0] < until]


def test_hole_wider_than_a_window(
    tiny: Any, opened: Callable[..., Any], walk: Any, make_klines: Callable[[int, int], Any]
) -> None:
    """Where an exchange bounds its windows, an outage wider than several of them neither ends nor hides the walk."""
    begin = LAST - 6000 * MINUTE
    hole = TimeRange(begin + 1200 * MINUTE, begin + 3700 * MINUTE)
    rows = without(make_klines(begin, 6001), hole.since, hole.until)
    exchange = tiny(rows, page=500, bounded=True)
    span = TimeRange(begin + 100 * MINUTE, LAST)

    async def main() -> Any:
        async with exchange.serving() as url, opened(url, "mexc") as source:
            whole = await walk(source, MEXC, span)
            cost = source.traffic.candle_requests
            inside = TimeRange(hole.since + 600 * MINUTE, hole.since + 900 * MINUTE)
            return whole, cost, await walk(source, MEXC, inside), inside

    whole, cost, alone, inside = asyncio.run(main())
    assert whole.error is None
    assert whole.times == [row[0] for row in rows if row[0] in span]
    assert not whole.left(span)
    assert cost < 40
    assert alone.error is None
    assert alone.times == []
    assert not alone.left(inside)


def test_listing_of_bounded_windows(
    tiny: Any, opened: Callable[..., Any], make_klines: Callable[[int, int], Any]
) -> None:
    """Where `since=0` gives nothing, the first candle is found through longer timeframes in under 20 requests."""
    first = LAST - 300 * DAY + 77 * MINUTE
    rows = make_klines(first, 5000) + make_klines(LAST - 3000 * MINUTE, 3001)
    exchange = tiny(rows, page=500, bounded=True)

    async def main() -> Any:
        async with exchange.serving() as url, opened(url, "mexc") as source:
            return await source.listing(MEXC), source.traffic.candle_requests

    found, cost = asyncio.run(main())
    assert found == first
    assert cost < 20


def test_out_of_reach(
    tiny: Any, opened: Callable[..., Any], walk: Any, make_klines: Callable[[int, int], Any]
) -> None:
    """An exchange that gives its last 720 candles whatever `since`: older ones are out of reach, not before listing."""
    rows = make_klines(LAST - 40_000 * MINUTE - 90 * DAY, 200) + make_klines(LAST - 9999 * MINUTE, 10_000)
    exchange = tiny(rows)

    def answer(query: dict[str, str], due: list[Any]) -> Any:
        return exchange.rows[-720:] if query["interval"] == "1m" else due

    exchange.answer = answer
    span = TimeRange(LAST - 2000 * MINUTE, LAST)

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            return await walk(source, BTC, span)

    walked = asyncio.run(main())
    assert walked.error is None
    oldest = LAST - 719 * MINUTE
    assert [(f.state, f.range) for f in walked.facts] == [(State.OUT_OF_REACH, TimeRange(span.since, oldest))]
    assert walked.times == list(range(oldest, LAST, MINUTE))


def test_silent_end_stays_missing(
    tiny: Any, opened: Callable[..., Any], walk: Any, make_klines: Callable[[int, int], Any]
) -> None:
    """Where an active market has no later candle, nothing is said of the slots behind its last one."""
    begin = LAST - 5000 * MINUTE
    exchange = tiny(make_klines(begin, 1000))
    span = TimeRange(begin, LAST)

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            return await walk(source, BTC, span)

    walked = asyncio.run(main())
    assert walked.error is None
    assert walked.facts == []
    assert walked.times == list(range(begin, begin + 1000 * MINUTE, MINUTE))
    assert list(walked.left(span)) == [TimeRange(begin + 1000 * MINUTE, LAST)]


@pytest.mark.parametrize("said", ["[]", "{}", "null", "", "[[]]"])
def test_empty_answers_are_never_absence(
    tiny: Any, opened: Callable[..., Any], walk: Any, make_klines: Callable[[int, int], Any], said: str
) -> None:
    """Empty answers, for ever, make no slot absent: everything not proven stays missing."""
    begin = LAST - 3000 * MINUTE
    exchange = tiny(make_klines(begin, 3001))
    exchange.answer = lambda query, due: (
        said if int(query.get("startTime", 0)) > begin + 1500 * MINUTE else due
    )
    span = TimeRange(begin, LAST)

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            return await walk(source, BTC, span)

    walked = asyncio.run(main())
    assert isinstance(walked.error, BadAnswer)
    assert len(walked.times) == sum(r.until - r.since for r in walked.answered) // MINUTE
    assert walked.left(span)


@pytest.mark.parametrize("reach", [1, 40, 1500])
def test_bad_for_good(
    tiny: Any, opened: Callable[..., Any], walk: Any, make_klines: Callable[[int, int], Any], reach: int
) -> None:
    """Rows that come broken every time go to quarantine with their text; the good ones around them are kept."""
    begin = LAST - 3000 * MINUTE
    rows = make_klines(begin, 3001)
    bad = range(700, 700 + reach)
    for n in bad:
        rows[n][2] = None
    exchange = tiny(rows)
    span = TimeRange(begin, LAST)

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            return await walk(source, BTC, span)

    walked = asyncio.run(main())
    assert walked.error is None
    assert not walked.left(span)
    assert walked.times == [row[0] for n, row in enumerate(rows[:-1]) if n not in bad]
    assert [row.open for row in walked.rejected] == [rows[n][0] for n in bad]
    assert walked.rejected[0].raw.startswith(f'[{rows[700][0]},"10.0",null,')
    assert len(exchange.asked) < 40


def test_other_calendar(
    tiny: Any, opened: Callable[..., Any], walk: Any, make_klines: Callable[[int, int], Any]
) -> None:
    """Candles that all open off the grid are another calendar: said so, and none of them is kept."""
    exchange = tiny(make_klines(LAST - 500 * MINUTE + 30_000, 400))
    span = TimeRange(LAST - 400 * MINUTE, LAST - 200 * MINUTE)

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            return await walk(source, BTC, span)

    walked = asyncio.run(main())
    assert isinstance(walked.error, ExchangeRefused)
    assert "grid" in str(walked.error)
    assert walked.pages == []


def test_names(tiny: Any, opened: Callable[..., Any]) -> None:
    """Hostile and mistyped names get an error that names them and the nearest right ones, and no candle request."""
    exchange = tiny()

    async def main() -> None:
        async with exchange.serving() as url, opened(url) as source:
            for symbol in ("../../x", "BTC\n/USDT", "A" * 300, "", "BTC/USDT:USDT", "\x1b]0;x\x07/USDT"):
                with pytest.raises(UnknownSymbol):
                    await source.known(SeriesId("binance", symbol, "1m"))
            with pytest.raises(UnknownSymbol) as caught:
                await source.known(SeriesId("binance", "BTC/USD", "1m"))
            assert "BTC/USDT" in caught.value.hint
            with pytest.raises(UnknownTimeframe) as wrong:
                await source.known(SeriesId("binance", "BTC/USDT", "7m"))
            assert "5m" in wrong.value.hint

    asyncio.run(main())
    assert exchange.asked == []


def test_redirects_and_floods_are_refused(
    tiny: Any, opened: Callable[..., Any], walk: Any, make_klines: Callable[[int, int], Any]
) -> None:
    """A redirect is not followed and an endless body is cut off: both are bad answers, asked for again."""
    begin = LAST - 50 * MINUTE
    exchange = tiny(make_klines(begin, 51))
    turns = iter(
        [
            web.Response(status=302, headers={"Location": "http://127.0.0.1:1/login"}),
            "[" + " " * (17 * 1024 * 1024) + "]",
        ]
    )
    exchange.answer = lambda _, due: next(turns, due)
    span = TimeRange(begin, LAST)

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            return await walk(source, BTC, span), source.traffic

    walked, traffic = asyncio.run(main())
    assert walked.error is None
    assert len(walked.times) == 50
    assert traffic.retries >= 2
    assert all(h["User-Agent"].startswith("chandlery/") for h in exchange.headers)
    assert not any("APIKEY" in name.upper() for h in exchange.headers for name in h)


def test_rows_beyond_the_limit_are_no_error(
    tiny: Any, opened: Callable[..., Any], walk: Any, make_klines: Callable[[int, int], Any]
) -> None:
    """An exchange that counts both of its bounds in, or knows no limit, gives more rows than asked for: no ask is repeated."""
    begin = LAST - 3000 * MINUTE
    exchange = tiny(make_klines(begin, 3001))
    exchange.answer = lambda query, _: [
        row for row in exchange.rows if 0 <= row[0] - int(query["startTime"]) <= int(query["limit"]) * MINUTE
    ]

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            return await walk(source, BTC, TimeRange(begin + MINUTE, LAST)), source.traffic

    walked, traffic = asyncio.run(main())
    assert (walked.error, len(walked.times)) == (None, 2999)
    assert (traffic.retries, traffic.candle_requests) == (0, 3)


def test_young_market_of_short_depth(
    tiny: Any, opened: Callable[..., Any], walk: Any, make_klines: Callable[[int, int], Any]
) -> None:
    """What a depth of 720 hides of a market that is younger than a month is out of reach, not before the listing."""
    exchange = tiny(make_klines(LAST - 3000 * MINUTE, 3001))
    exchange.answer = lambda query, due: exchange.rows[-720:] if query["interval"] == "1m" else due
    span = TimeRange(LAST - 2000 * MINUTE, LAST)

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            return await walk(source, BTC, span)

    walked = asyncio.run(main())
    assert [fact.state for fact in walked.facts] == [State.OUT_OF_REACH]
    assert not walked.left(span)


def test_late_candle_is_not_absent(
    tiny: Any, opened: Callable[..., Any], walk: Any, make_klines: Callable[[int, int], Any]
) -> None:
    """Where the candle in progress is given and the one that has just closed is not yet, that one is missing, not absent."""
    begin = LAST - 50 * MINUTE
    exchange = tiny(without(make_klines(begin, 51), LAST - MINUTE, LAST))
    span = TimeRange(begin + MINUTE, LAST)

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            return await walk(source, BTC, span)

    walked = asyncio.run(main())
    assert (walked.error, walked.facts) == (None, [])
    assert list(walked.left(span)) == [TimeRange(LAST - MINUTE, LAST)]


@pytest.mark.parametrize("habit", ["excludes since", "drops the head"])
def test_way_of_asking_is_learnt(
    tiny: Any, opened: Callable[..., Any], walk: Any, make_klines: Callable[[int, int], Any], habit: str
) -> None:
    """Answers that lack the candle at `since`, or the head of their window, are wrong for two pages, not for all of them."""
    begin = LAST - 20_000 * MINUTE
    exchange = tiny(make_klines(begin, 20_001), page=500, bounded=True)
    exchange.answer = lambda query, due: (
        [row for row in due if row[0] > int(query["startTime"])] if habit == "excludes since" else due[-200:]
    )
    span = TimeRange(begin + 5 * MINUTE, LAST)

    async def main() -> Any:
        async with exchange.serving() as url, opened(url, "mexc") as source:
            return await walk(source, MEXC, span), source.traffic

    walked, traffic = asyncio.run(main())
    assert walked.error is None
    assert walked.times == list(range(span.since, LAST, MINUTE))
    assert traffic.retries <= 10
    assert traffic.candle_requests <= 1.15 * 20_000 / (498 if habit == "excludes since" else 199) + 25
