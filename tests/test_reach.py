"""What an exchange no longer gives: told before a run, planned, kept as out of reach, and never called anything else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chandlery.backfill import Backfill, Want
from chandlery.candle import SeriesId
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.ledger import State
from chandlery.report import PlanReport, RunReport, Silent
from chandlery.sources import open_source
from chandlery.stores import open_store
from chandlery.stores.base import Store
from chandlery.testing.clock import VirtualClock
from chandlery.timeframe import DAY, HOUR, MINUTE
from chandlery.timerange import TimeRange
from chandlery.verify import verify_series
from chandlery.when import parse_when

NOW = parse_when("2024-06-20T12:30Z", now=0)
IN_MINUTE = 30_000  # the exchange's clock is half a minute further
KRAKEN = SeriesId("kraken", "BTC/USDT", "1m")
OLDEST = NOW - 719 * MINUTE


class _Clock:
    now = NOW

    def now_ms(self) -> int:
        return self.now + IN_MINUTE


class _Told(Silent):
    """Keeps what a person would be told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, series: SeriesId | None, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def clock() -> _Clock:
    """The exchange's clock, which tests move."""
    return _Clock()


@pytest.fixture
def exchange(clock: _Clock) -> Iterator[LocalExchange]:
    """Kraken, which gives the last 720 candles."""
    with LocalExchange(ExchangeSettings(exchange=("kraken",), weight_limit=0), clock=clock) as running:
        yield running


@pytest.fixture
def told() -> _Told:
    """What the runs of a test say."""
    return _Told()


def run(exchange: LocalExchange, store: Store, told: _Told, *wants: Want, **options: Any) -> RunReport:
    """One run with a source of its own."""

    async def fetch() -> RunReport:
        async with open_source("kraken", url=exchange.url, clock=VirtualClock(NOW)) as source:
            return await Backfill(source, store, settle=0, progress=told, **options).run(wants)

    return asyncio.run(fetch())


def plan(exchange: LocalExchange, store: Store, told: _Told, want: Want) -> PlanReport:
    """What a run would do."""

    async def ask() -> PlanReport:
        async with open_source("kraken", url=exchange.url, clock=VirtualClock(NOW)) as source:
            return await Backfill(source, store, settle=0, progress=told).plan([want])

    return asyncio.run(ask())


def asked(exchange: LocalExchange) -> int:
    """How many requests for candles the server has seen."""
    return sum(record.path.endswith("/OHLC") for record in exchange.requests)


def test_a_month_of_minutes_costs_two_requests(exchange: LocalExchange, told: _Told) -> None:
    """Of 30 days Kraken gives half a day: told before the first request, one page, one look behind it, the rest out of reach."""
    store = open_store("memory:")
    report = run(exchange, store, told, Want(KRAKEN, NOW - 30 * DAY, NOW))
    counts = report.series[0].counts
    assert counts[State.STORED] == 719
    assert counts[State.OUT_OF_REACH] == 30 * 1440 - 719
    assert not any(counts[state] for state in (State.ABSENT, State.MISSING, State.BEFORE_LISTING))
    assert asked(exchange) == 2
    assert store.candles(KRAKEN).equals(exchange.truth("BTC/USDT", "1m", OLDEST, NOW))
    assert told.texts == [
        "kraken gives no 1m candle from before 2024-06-20T00:31:00Z: 42,481 are out of reach"
    ]


def test_twenty_symbols_cost_a_page_each(exchange: LocalExchange, told: _Told) -> None:
    """Eight series of a month of minutes cost one request each, and one for all."""
    symbols = ("BTC", "ETH", "BNB", "LTC", "ADA", "XRP", "LINK", "SOL")
    wants = [Want(SeriesId("kraken", f"{base}/USDT", "1m"), NOW - 30 * DAY, NOW) for base in symbols]
    report = run(exchange, open_store("memory:"), told, *wants)
    assert not report.ok  # a month was asked for
    assert all(one.only_out_of_reach for one in report.series)
    assert asked(exchange) <= len(wants) + 1
    (text,) = told.texts
    assert text.endswith(": 339,848 candles of 8 series are out of reach")


def test_what_was_stored_stays_and_what_slipped_away_is_out_of_reach(
    exchange: LocalExchange, clock: _Clock, told: _Told, tmp_path: Path
) -> None:
    """A day later the old candles are still kept, and of the time between those that were never fetched are out of reach."""
    want = Want(KRAKEN, NOW - 2 * HOUR)
    with open_store(tmp_path) as store:
        assert run(exchange, store, told, want).ok
        clock.now = NOW + DAY
        report = run(exchange, store, told, want)
        counts = report.series[0].counts
        assert counts[State.STORED] == 120 + 719
        assert counts[State.OUT_OF_REACH] == 1440 - 719
        assert not counts[State.ABSENT] and not counts[State.MISSING]  # noqa: PT018
        oldest = clock.now - 719 * MINUTE
        gone = [fact.range for fact in store.ledger(KRAKEN).facts if fact.state is State.OUT_OF_REACH]
        assert gone == [TimeRange(NOW, oldest)]
        assert store.candles(KRAKEN, TimeRange(NOW - 2 * HOUR, NOW)).height == 120
        # Once more: nothing new is said, written or told.
        before, texts = max(entry.seq for entry in store.journal()), list(told.texts)
        run(exchange, store, told, want, recheck=0)
        assert max(entry.seq for entry in store.journal()) == before
        assert told.texts == texts
        assert verify_series(store, KRAKEN).unexplained == 0


def test_an_absent_slot_that_slips_away_stays_absent(
    exchange: LocalExchange, clock: _Clock, told: _Told
) -> None:
    """What was answered once is not called out of reach afterwards, whatever the recheck would like to see again."""
    store = open_store("memory:")
    want = Want(KRAKEN, NOW - 5 * HOUR, NOW)
    first = run(exchange, store, told, want).series[0].counts
    clock.now = NOW + 20 * HOUR
    before = asked(exchange)
    assert run(exchange, store, told, want, recheck=2 * DAY).series[0].counts == first
    assert asked(exchange) == before


@pytest.mark.parametrize("repair", [False, True])
def test_repair_asks_for_nothing_that_cannot_be_had(
    exchange: LocalExchange, told: _Told, *, repair: bool
) -> None:
    """What is out of reach stays so after a repair, which looks once whether older candles come now."""
    store = open_store("memory:")
    want = Want(KRAKEN, NOW - 3 * DAY, NOW)
    first = run(exchange, store, told, want).series[0].counts
    before = asked(exchange)
    assert run(exchange, store, told, want, repair=repair, recheck=0).series[0].counts == first
    assert asked(exchange) == before + repair


def test_plan_lists_what_cannot_be_had(exchange: LocalExchange, told: _Told) -> None:
    """The plan asks for what is in reach only, and its JSON lists the rest with the number of candles."""
    report = plan(exchange, open_store("memory:"), told, Want(KRAKEN, NOW - 30 * DAY, NOW))
    series = report.as_json()["series"][0]
    assert [(r["from"], r["requests"]) for r in series["ranges"]] == [("2024-06-20T00:31:00Z", 1)]
    assert series["out_of_reach"] == [
        {"from": "2024-05-21T12:30:00Z", "to": "2024-06-20T00:31:00Z", "candles": 42_481}
    ]
    assert "42,481 are out of reach" in told.texts[0]
    assert asked(exchange) == 0


def test_listing_is_the_oldest_that_can_be_had(exchange: LocalExchange, clock: _Clock, told: _Told) -> None:
    """`--since listing` begins at the oldest candle given, says that older ones exist, and calls them out of reach."""
    store = open_store("memory:")
    report = run(exchange, store, told, Want(KRAKEN, "listing", NOW))
    assert report.series[0].span == TimeRange(OLDEST, NOW)
    assert report.series[0].counts[State.STORED] == 719
    assert "older candles exist" in told.texts[0]
    assert {fact.state for fact in store.ledger(KRAKEN).facts} == {State.OUT_OF_REACH}
    clock.now = NOW + HOUR
    later = run(exchange, store, told, Want(KRAKEN, "listing"))
    assert later.series[0].counts[State.STORED] == 719
    assert {fact.state for fact in store.ledger(KRAKEN).facts} == {State.OUT_OF_REACH}
    assert store.candles(KRAKEN).height == 719 + 60
