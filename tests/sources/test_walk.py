"""The walk against the local exchange, over HTTP and through the real ccxt."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest

from chandlery.candle import SeriesId
from chandlery.errors import BadAnswer
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.faults import Fault, Faults
from chandlery.ledger import State
from chandlery.timerange import TimeRange

MINUTE = 60_000
NOW = 1_717_200_030_000
BTC = SeriesId("binance", "BTC/USDT", "1m")


class Fixed:
    """A clock that stands still."""

    def now_ms(self) -> int:
        return NOW


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalExchange]:
    """One server for all tests of this file; its clock stands still."""
    with LocalExchange(ExchangeSettings(weight_limit=0), clock=Fixed()) as exchange:
        yield exchange


@pytest.fixture
def local(shared: LocalExchange) -> Iterator[LocalExchange]:
    """The server without faults."""
    shared.faults = Faults()
    shared.forget_requests()
    yield shared
    shared.faults = Faults()


def span_of(series: SeriesId, since: int, candles: int) -> TimeRange:
    """So many candles from `since` on."""
    frame = series.frame
    first = frame.ceil(since)
    return TimeRange(first, frame.add(first, candles))


def truth(local: LocalExchange, series: SeriesId, span: TimeRange) -> pl.DataFrame:
    """What the exchange has there."""
    return local.truth(series.symbol, series.timeframe, span.since, span.until)


@pytest.mark.parametrize("timeframe", ["1m", "15m", "1h", "1d", "3d", "1w", "1M"])
def test_all_timeframes(
    local: LocalExchange, opened: Callable[..., Any], walk: Callable[..., Any], timeframe: str
) -> None:
    """A walk over any timeframe, weeks and months by the calendar, gives exactly the exchange's settled candles."""
    series = SeriesId("binance", "BTC/USDT", timeframe)
    frame = series.frame
    span = TimeRange(
        max(frame.add(frame.floor(NOW), -1200), frame.floor(1_502_942_400_000)), frame.floor(NOW)
    )

    async def main() -> Any:
        async with opened(local.url) as source:
            return await walk(source, series, span)

    walked = asyncio.run(main())
    assert walked.error is None
    assert walked.candles.equals(truth(local, series, span))
    assert not walked.left(span)


KINDS = ["429", "418", "5xx", "reset", "html", "cut", "empty", "null_price", "duplicate_rows", "conflicting_rows",
         "shuffled_rows", "misaligned_rows", "since_ignored", "in_progress"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_four_times_in_a_row(
    local: LocalExchange, opened: Callable[..., Any], walk: Callable[..., Any], kind: str
) -> None:
    """Whatever goes wrong, four times in a row on every page, the candles are exactly right in the end."""
    local.faults = Faults((Fault(kind, path="klines", max_in_a_row=4),), 5)
    span = span_of(BTC, 1_650_000_000_000, 2500)

    async def main() -> Any:
        async with opened(local.url) as source:
            return await walk(source, BTC, span), source.traffic

    walked, traffic = asyncio.run(main())
    assert walked.error is None
    assert walked.candles.equals(truth(local, BTC, span))
    assert not walked.left(span)
    assert not walked.rejected
    assert any(record.fault for record in local.requests)
    assert traffic.retries > 0 or kind in {"duplicate_rows", "shuffled_rows"}


def test_hang(local: LocalExchange, opened: Callable[..., Any], walk: Callable[..., Any]) -> None:
    """A server that takes a request and never answers costs the request's total time, not the run."""
    local.faults = Faults((Fault("hang", path="klines", count=2),), 5)
    span = span_of(BTC, 1_650_000_000_000, 50)

    async def main() -> Any:
        async with opened(local.url, timeout_seconds=0.3) as source:
            return await walk(source, BTC, span)

    walked = asyncio.run(main())
    assert walked.error is None
    assert walked.candles.equals(truth(local, BTC, span))


def test_mixed_schedules(
    local: LocalExchange,
    opened: Callable[..., Any],
    walk: Callable[..., Any],
    seed: int,
    proven_count: Callable[[int], int],
) -> None:
    """Under schedules of all faults mixed, up to 30 % of answers, no walk ever says anything wrong of a slot."""
    for number in range(proven_count(100)):
        dice = random.Random(seed + number)
        series = SeriesId("binance", dice.choice(["BTC/USDT", "SOL/USDT"]), dice.choice(["1m", "5m", "1h"]))
        span = span_of(series, dice.randrange(1_600_000_000_000, 1_640_000_000_000), 6000)
        local.faults = Faults(
            (Fault("mixed", probability=0.3, max_in_a_row=4, kinds=tuple(KINDS)),), seed + number
        )

        async def main(series: SeriesId = series, span: TimeRange = span) -> Any:
            async with opened(local.url) as source:
                return await walk(source, series, span)

        walked = asyncio.run(main())
        where = f"seed {seed + number}"
        assert walked.error is None, where
        assert walked.candles.equals(truth(local, series, span)), where
        assert not walked.left(span), where


def test_outage_is_absent(local: LocalExchange, opened: Callable[..., Any], walk: Callable[..., Any]) -> None:
    """Slots inside an outage of the exchange are answered and empty, and asking for them alone says the same."""
    series = SeriesId("binance", "BTC/USDT", "1h")
    whole = span_of(series, 1_514_764_800_000, 8000)
    present = set(truth(local, series, whole)["time"].dt.epoch("ms"))
    holes = [t for t in series.frame.opens(whole.since, whole.until).tolist() if t not in present]
    assert holes, "the generated market has outages"

    async def main() -> Any:
        async with opened(local.url) as source:
            return [
                await walk(source, series, span)
                for span in (whole, TimeRange(holes[0], series.frame.next(holes[0])))
            ]

    everything, alone = asyncio.run(main())
    for walked, span in ((everything, whole), (alone, TimeRange(holes[0], series.frame.next(holes[0])))):
        assert walked.error is None
        assert not walked.left(span)
        assert not walked.facts
    assert alone.times == []


def test_delisted(local: LocalExchange, opened: Callable[..., Any], walk: Callable[..., Any]) -> None:
    """After the last candle of a market that no longer trades comes a fact, with the last candle's time in it."""
    series = SeriesId("binance", "BCC/USDT", "1h")
    span = span_of(series, 1_541_000_000_000, 3000)

    async def main() -> Any:
        async with opened(local.url) as source:
            return await walk(source, series, span)

    walked = asyncio.run(main())
    assert walked.error is None
    assert walked.candles.equals(truth(local, series, span))
    assert [fact.state for fact in walked.facts] == [State.AFTER_END]
    assert walked.facts[0].range == TimeRange(series.frame.next(walked.times[-1]), span.until)
    assert not walked.left(span)


def test_listing(local: LocalExchange, opened: Callable[..., Any], walk: Callable[..., Any]) -> None:
    """The first candle is found in under 20 requests, and what lies before it is a fact, not a hole."""
    series = SeriesId("binance", "SOL/USDT", "1m")

    async def main() -> Any:
        async with opened(local.url) as source:
            first = await source.listing(series)
            cost = source.traffic.candle_requests
            span = TimeRange(first - 3000 * MINUTE, first + 500 * MINUTE)
            return first, cost, await walk(source, series, span), span

    first, cost, walked, span = asyncio.run(main())
    assert first == 1_597_125_600_000
    assert cost < 20
    assert [(f.state, f.range) for f in walked.facts] == [
        (State.BEFORE_LISTING, TimeRange(span.since, first))
    ]
    assert walked.candles.equals(truth(local, series, span))


def test_only_settled_candles(
    local: LocalExchange, opened: Callable[..., Any], walk: Callable[..., Any]
) -> None:
    """A candle that closed less than the settling time ago is in no page, whatever span is asked for."""
    frame = BTC.frame
    span = TimeRange(frame.floor(NOW) - 30 * MINUTE, frame.floor(NOW) + 30 * MINUTE)

    async def main() -> Any:
        async with opened(local.url) as source:
            return [await walk(source, BTC, span, settle=settle) for settle in (0, 29_000, 31_000, 95_000)]

    lasts = [walked.times[-1] for walked in asyncio.run(main())]
    opened_last = frame.floor(NOW)
    assert lasts == [opened_last - n * MINUTE for n in (1, 1, 2, 3)]


def test_top_up_costs_one_request(
    local: LocalExchange, opened: Callable[..., Any], walk: Callable[..., Any]
) -> None:
    """Asking for the newest candle costs one request of a few rows: the overlap, the candle, the one in progress."""
    frame = BTC.frame
    span = TimeRange(frame.floor(NOW) - MINUTE, frame.floor(NOW))

    async def main() -> Any:
        async with opened(local.url) as source:
            walked = await walk(source, BTC, span)
            return walked, source.traffic.candle_requests

    walked, cost = asyncio.run(main())
    assert walked.times == [span.since]
    assert cost == 1


def test_exchange_that_never_recovers(
    local: LocalExchange, opened: Callable[..., Any], walk: Callable[..., Any]
) -> None:
    """An answer that stays wrong ends the walk with an error, after what arrived before it was handed out."""
    span = span_of(BTC, 1_650_000_000_000, 3000)
    local.faults = Faults((Fault("html", path="klines", since=span.since + 1500 * MINUTE),), 5)

    async def main() -> Any:
        async with opened(local.url) as source:
            return await walk(source, BTC, span)

    walked = asyncio.run(main())
    assert isinstance(walked.error, BadAnswer)
    part = TimeRange(span.since, walked.answered.until)
    assert part.until > span.since + 1500 * MINUTE
    assert walked.candles.equals(truth(local, BTC, part))


def test_many_walks_at_once(
    local: LocalExchange, opened: Callable[..., Any], walk: Callable[..., Any]
) -> None:
    """Walks of several series side by side through one client never mix up their answers."""
    many = [
        SeriesId("binance", s, t) for s in ("BTC/USDT", "ETH/USDT", "SOL/USDT") for t in ("1m", "5m", "1h")
    ]
    local.faults = Faults((Fault("latency", ms=5), Fault("mixed", probability=0.1, max_in_a_row=2)), 3)

    async def main() -> Any:
        async with opened(local.url) as source:
            spans = [span_of(series, 1_650_000_000_000, 2000) for series in many]
            return spans, await asyncio.gather(
                *(walk(source, *pair) for pair in zip(many, spans, strict=True))
            )

    spans, walks = asyncio.run(main())
    for series, span, walked in zip(many, spans, walks, strict=True):
        assert walked.error is None
        assert walked.candles.equals(truth(local, series, span))
