"""What a profile changes in how an exchange is asked: pages by age, depth, units and settling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.candle import SeriesId
from chandlery.errors import UnknownSymbol
from chandlery.exchange import LocalExchange
from chandlery.exchange.shapes import SHAPES
from chandlery.ledger import State
from chandlery.sources.base import Market, Source
from chandlery.sources.manners import Manners, in_base
from chandlery.sources.profile import LINEAR, SPOT, Habits, Profile
from chandlery.sources.profile_book import ProfileBook
from chandlery.timeframe import DAY, HOUR, MINUTE
from chandlery.timerange import TimeRange

from .profiles import BTC, CURRENT, HAS_SWAPS, NOW, SWAP, SetClock, learn


def _candle_asks(server: LocalExchange) -> list[dict[str, str]]:
    parts = ("klines", "kline", "OHLC", "candles", "candlesticks", "query")
    return [
        dict(one.query)
        for one in server.requests
        if any(part in one.path.rsplit("/", 2)[-1] or part in one.path.rsplit("/", 2)[-2] for part in parts)
    ]


# -- pages -----------------------------------------------------------------------------------------------------------


def test_okx_is_asked_for_larger_pages_of_recent_candles(source: Callable[..., Source], walk: Any) -> None:
    """3,000 minutes back: pages of 100 as long as they are history, of 300 within the last 1,440, not one of them in vain."""
    span = TimeRange(CURRENT - 3000 * MINUTE, CURRENT)

    async def run() -> tuple[int, int, int, int]:
        async with source("okx") as okx:
            walked = await walk(okx, SeriesId("okx", BTC, "1m"), span, settle=0)
            estimate = await okx.estimate(SeriesId("okx", BTC, "1m"), span)
            assert walked.error is None
            return len(walked.times), okx.traffic.candle_requests, okx.traffic.retries, estimate.requests

    candles, requests, retries, estimated = asyncio.run(run())
    assert (candles, retries) == (3000, 0)
    # 16 pages of 99 new ones over 1,571 candles, and 5 of 299 over the rest.
    assert requests == estimated == 21


@pytest.mark.parametrize("name", sorted(set(SHAPES) - {"kraken", "gate"}))
@pytest.mark.parametrize("symbol", [BTC, SWAP])
def test_every_page_is_full(name: str, symbol: str, source: Callable[..., Source], walk: Any) -> None:
    """Four days of minutes cost the least number of pages of the size that the profile says, and no repeat."""
    if name not in HAS_SWAPS and symbol == SWAP:
        return
    if name == "binanceusdm" and symbol == BTC:
        return
    series, span = SeriesId(name, symbol, "1m"), TimeRange(CURRENT - 4 * DAY, CURRENT)

    async def run() -> tuple[int, int, int, int]:
        async with source(name) as one:
            walked = await walk(one, series, span, settle=0)
            assert walked.error is None
            estimate = await one.estimate(series, span)
            return len(walked.times), one.traffic.candle_requests, one.traffic.retries, estimate.requests

    candles, requests, retries, estimated = asyncio.run(run())
    assert candles == 4 * 1440
    assert retries == 0
    assert estimated <= requests <= estimated + 1


def test_a_learnt_page_takes_the_place_of_the_shipped_one(
    server: LocalExchange, source: Callable[..., Source], walk: Any, tmp_path: Path
) -> None:
    """With a profile in the state folder that says 200 candles, 200 are asked for."""
    learn(tmp_path, "bybit", page=200)

    async def run() -> None:
        async with source("bybit") as bybit:
            await walk(bybit, SeriesId("bybit", BTC, "1m"), TimeRange(CURRENT - HOUR * 10, CURRENT), settle=0)

    asyncio.run(run())
    assert max(int(query["limit"]) for query in _candle_asks(server)) == 200


# -- settling and units ----------------------------------------------------------------------------------------------


def test_a_candle_settles_when_the_profile_says(source: Callable[..., Source], tmp_path: Path) -> None:
    """Ten seconds unless the profile knows the finality delay, and what the caller says goes before both."""
    assert source("okx").settle_seconds == 10
    learn(tmp_path, "okx", LINEAR, finality=42.5)
    assert source("okx").settle_seconds == 42.5
    assert source("okx", settle_seconds=3.0).settle_seconds == 3


@pytest.mark.parametrize("name", HAS_SWAPS)
def test_volumes_of_swaps_are_in_the_base_currency(
    name: str, server: LocalExchange, source: Callable[..., Source], walk: Any
) -> None:
    """A swap's candles are those of the market to the last bit, also where the exchange gives contracts."""
    span = TimeRange(CURRENT - 300 * MINUTE, CURRENT)

    async def run() -> tuple[Any, str]:
        async with source(name) as one:
            series = SeriesId(name, SWAP, "1m")
            return (await walk(one, series, span, settle=0)).candles, (await one.volumes(series)).unit

    candles, unit = asyncio.run(run())
    assert unit == "base"
    assert candles.equals(server.truth(SWAP, "1m", span.since, span.until, exchange=name))


def test_a_unit_that_cannot_be_converted_is_told(
    server: LocalExchange, opened: Callable[..., Source], tmp_path: Path
) -> None:
    """Quote volumes of an exchange without a shipped profile stay what they are, and the source says so."""
    habits = {SPOT: Habits(page=100, volume="quote")}
    ProfileBook(tmp_path / "state").save(Profile("okxus", habits, origin="probed"))

    async def run() -> str:
        async with opened(server.url_of("okx"), "okxus") as okx:
            return (await okx.volumes(SeriesId("okxus", BTC, "1m"))).unit

    assert asyncio.run(run()) == "quote"


@pytest.mark.parametrize(("name", "learnt"), [("gate", "base"), ("okx", "quote"), ("okx", "contracts")])
def test_a_learnt_unit_does_not_take_the_place_of_a_shipped_one(
    name: str, learnt: str, server: LocalExchange, source: Callable[..., Source], walk: Any, tmp_path: Path
) -> None:
    """Whatever a probe took the volumes of swaps for, they are those of the market where the shipped profile knows the unit."""
    learn(tmp_path, name, LINEAR, volume=learnt)
    span = TimeRange(CURRENT - 300 * MINUTE, CURRENT)

    async def run() -> Any:
        async with source(name) as one:
            return await walk(one, SeriesId(name, SWAP, "1m"), span, settle=0)

    candles = asyncio.run(run()).candles
    assert candles.equals(server.truth(SWAP, "1m", span.since, span.until, exchange=name))


def test_contracts_times_size_is_the_nearest_double() -> None:
    """57 contracts of 0.01 are 0.57, not 0.5700000000000001; 3 of 10 are 30."""
    import polars as pl

    contracts = pl.DataFrame({"volume": [float(n) for n in range(2000)]})
    small = in_base(contracts, 0.01)["volume"].to_list()
    assert small == [float(f"{n // 100}.{n % 100:02d}") for n in range(2000)]
    assert in_base(contracts, 10.0)["volume"][3] == 30.0


# -- depth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "symbol", "depth", "requests"),
    [("kraken", BTC, 720, 1), ("gate", BTC, 10_000, 11), ("gate", SWAP, 10_000, 6)],
)
def test_what_is_too_old_costs_no_request(
    name: str,
    symbol: str,
    depth: int,
    requests: int,
    server: LocalExchange,
    source: Callable[..., Source],
    walk: Any,
) -> None:
    """Of 30 days of minutes all that can be had comes in full pages; the rest is out of reach, after one look in a run."""
    series, span = SeriesId(name, symbol, "1m"), TimeRange(CURRENT - 30 * DAY, CURRENT)

    async def run() -> Any:
        async with source(name) as one:
            oldest = await one.reach(series, NOW)
            assert oldest == CURRENT - (depth - 1) * MINUTE
            walked = await walk(one, series, span, settle=0)
            estimate = await one.estimate(series, span)
            assert estimate.requests == requests
            return walked, one.traffic

    walked, traffic = asyncio.run(run())
    assert walked.error is None
    assert (traffic.candle_requests, traffic.retries) == (requests + 1, 0)
    oldest = CURRENT - (depth - 1) * MINUTE
    assert [(fact.range, fact.state) for fact in walked.facts] == [
        (TimeRange(span.since, oldest), State.OUT_OF_REACH)
    ]
    assert walked.candles.equals(server.truth(symbol, "1m", oldest, CURRENT, exchange=name))


@pytest.mark.parametrize("name", ["kraken", "gate"])
def test_a_boundary_that_moves_under_way_loses_nothing(
    name: str,
    playing: tuple[LocalExchange, SetClock],
    server: LocalExchange,
    source: Callable[..., Source],
    walk: Any,
) -> None:
    """A minute that turns between the plan and the first answer costs that minute, which is out of reach then, no more."""
    clock = playing[1]
    series, span = SeriesId(name, BTC, "1m"), TimeRange(CURRENT - DAY * 10, CURRENT)

    async def run() -> Any:
        async with source(name) as one:
            assert await one.now() == NOW - NOW % 1000
            clock.now = NOW + 2 * MINUTE
            return await walk(one, series, span, settle=0), one.traffic.candle_requests

    walked, requests = asyncio.run(run())
    depth = 720 if name == "kraken" else 10_000
    oldest = CURRENT - (depth - 3) * MINUTE
    assert walked.error is None
    assert not walked.left(span)
    given = walked.candles["time"].to_physical().to_list()
    assert oldest - (name == "gate") * 2 * MINUTE <= given[0] <= oldest
    assert given == list(range(given[0], CURRENT, MINUTE))
    assert all(fact.state is State.OUT_OF_REACH for fact in walked.facts)
    assert requests <= (6 if name == "kraken" else 17)


def test_a_young_market_begins_with_its_listing_not_with_the_depth(
    server: LocalExchange, source: Callable[..., Source], walk: Any
) -> None:
    """Between the depth and the first candle of a young market lies what was before its listing."""
    series, span = SeriesId("gate", "IO/USDT", "1m"), TimeRange(CURRENT - 10 * DAY, CURRENT)

    async def run() -> Any:
        async with source("gate") as gate:
            return await walk(gate, series, span, settle=0)

    walked = asyncio.run(run())
    assert walked.error is None
    assert [fact.state for fact in walked.facts] == [State.OUT_OF_REACH, State.BEFORE_LISTING]
    assert walked.candles.equals(server.truth("IO/USDT", "1m", span.since, span.until, exchange="gate"))
    assert not walked.left(span)


def test_the_beginning_is_told_from_the_listing(source: Callable[..., Source]) -> None:
    """Kraken's beginning is the oldest of its 720, and older ones exist; Binance's is the listing."""

    async def run(name: str) -> tuple[Any, int]:
        async with source(name) as one:
            begin = await one.beginning(SeriesId(name, BTC, "1h"))
            return begin, one.traffic.candle_requests

    kraken, asked = asyncio.run(run("kraken"))
    binance, _ = asyncio.run(run("binance"))
    hour = NOW - NOW % HOUR
    assert (kraken.open, kraken.deeper, asked) == (hour - 719 * HOUR, True, 1)
    assert (binance.open, binance.deeper) == (1_502_942_400_000, False)


def test_a_depth_in_rows_is_no_moment_where_quiet_times_have_none(
    tmp_path: Path, source: Callable[..., Source]
) -> None:
    """Where times without a trade have no row, so many rows reach further back than so many candles: nothing is sure."""
    learn(tmp_path, "coinbase", depth={"*": 500})

    async def run() -> int | None:
        async with source("coinbase") as coinbase:
            return await coinbase.reach(SeriesId("coinbase", BTC, "1m"), NOW)

    assert asyncio.run(run()) is None


# -- symbols that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_an_unknown_symbol_is_refused_before_any_candle_is_asked_for(
    name: str, server: LocalExchange, source: Callable[..., Source]
) -> None:
    """A symbol that the exchange does not list is an UnknownSymbol with near names, after no ask for candles."""

    async def run() -> None:
        async with source(name) as one:
            with pytest.raises(UnknownSymbol) as caught:
                await one.listing(SeriesId(name, "BTCC/USDT", "1h"))
            assert "BTC" in caught.value.hint
            assert one.traffic.candle_requests == 0

    asyncio.run(run())
    assert _candle_asks(server) == []


def test_without_a_profile_ccxt_gives_the_first_guess(tmp_path: Path, opened: Callable[..., Source]) -> None:
    """An exchange that no profile knows is asked by ccxt's hint, or for 1,000 where there is none, settles after ten
    seconds, and its spot volumes count as base units.
    """
    source = opened("http://127.0.0.1:9", "bitstamp")
    market = Market("BTC/USD", "spot", True, "BTC", "USD", family=SPOT)
    series = SeriesId("bitstamp", "BTC/USD", "1m")
    assert source.settle_seconds == 10
    for hint, page in ((None, 1000), (777, 777), (1, 1000), (90_000, 5000)):
        manners = Manners(None, now=lambda: NOW, hint=lambda _symbol, hint=hint: hint)
        assert manners.page(series, market)(NOW - DAY) == page
        assert manners.reach(series, market, NOW) is None
        assert manners.volumes(series, market).unit == "base"
    swap = Market("BTC/USD:USD", "swap", True, "BTC", "USD", family=LINEAR)
    assert manners.volumes(SeriesId("bitstamp", swap.symbol, "1m"), swap).unit == "unknown"
    asyncio.run(source.close())
