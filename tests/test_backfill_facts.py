"""Back-fill: what an earlier run took for the beginning, the end or an absence is doubted again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from chandlery.backfill import Want
from chandlery.candle import CandlePage, SeriesId
from chandlery.exchange import ExchangeSettings, Faults, LocalExchange, parse_fault
from chandlery.ledger import Fact, State, aligned
from chandlery.stores import open_store
from chandlery.stores.base import Ask, Page, SeriesFact
from chandlery.timeframe import DAY
from chandlery.timerange import TimeRange
from chandlery.verify import verify_series
from chandlery.when import parse_when

from .backfilling import HOURLY, NOW, klines, run


@pytest.fixture(scope="module")
def exchange() -> Iterator[LocalExchange]:
    """A local exchange at half past twelve, for ever."""
    with LocalExchange(ExchangeSettings(clock="2024-06-20T12:30Z,0", weight_limit=0)) as running:
        yield running


@pytest.mark.parametrize("kind", ["memory:", "embedded"])
def test_wrong_end_of_a_market_that_trades_is_asked_again(
    exchange: LocalExchange, tmp_path: Path, kind: str
) -> None:
    """An end that was recorded wrongly or is outdated is found out by the next fetch, without any option."""
    want, since, until = Want(HOURLY, NOW - 20 * DAY, NOW - 2 * DAY), NOW - 12 * DAY, NOW - 2 * DAY
    with open_store(tmp_path if kind == "embedded" else kind) as store:
        assert run(exchange, store, [Want(HOURLY, NOW - 20 * DAY, since)]).ok
        ended = Fact(TimeRange(HOURLY.frame.ceil(since), until), State.AFTER_END, "no longer traded", NOW)
        store.write([Ask(HOURLY, TimeRange(since, until), NOW, 0), SeriesFact(HOURLY, ended)])
        assert run(exchange, store, [want]).ok
        assert store.candles(HOURLY).equals(exchange.truth("BTC/USDT", "1h", NOW - 20 * DAY, until))
        assert store.ledger(HOURLY).facts == ()


def test_wrong_listing_is_found_out_by_repair_and_by_since_listing(
    exchange: LocalExchange, tmp_path: Path
) -> None:
    """A listing recorded too late is moved back: by repair, by --since listing, and not by a fetch of that range."""
    series = SeriesId("binance", "BTC/USDT", "1d")
    since, until = parse_when("2017-08-01", now=0), parse_when("2017-10-01", now=0)
    listed, wrong = parse_when("2017-08-17", now=0), parse_when("2017-09-10", now=0)
    for number, way in enumerate(("repair", "listing")):
        with open_store(tmp_path / str(number)) as store:
            false = Fact(TimeRange(since, wrong), State.BEFORE_LISTING, "listed later", NOW)
            store.write([Ask(series, TimeRange(since, until), NOW, 0), SeriesFact(series, false)])
            assert run(exchange, store, [Want(series, since, until)]).ok
            assert store.opens(series)[0] == wrong
            want = Want(series, "listing" if way == "listing" else since, until)
            assert run(exchange, store, [want], repair=way == "repair").ok
            assert store.candles(series).equals(exchange.truth("BTC/USDT", "1d", since, until))
            facts = store.ledger(series).facts
            assert [(f.state, f.range) for f in facts] == [(State.BEFORE_LISTING, TimeRange(since, listed))]
            assert verify_series(store, series).ok


def test_wrong_reach_is_doubted_by_a_longer_recheck(exchange: LocalExchange, tmp_path: Path) -> None:
    """What was out of reach is asked again by a recheck that reaches so far, and what comes wins."""
    since, until = NOW - 20 * DAY, NOW - 2 * DAY
    with open_store(tmp_path) as store:
        false = Fact(
            aligned(HOURLY.frame, TimeRange(since, NOW - 10 * DAY)), State.OUT_OF_REACH, "too old", NOW
        )
        store.write([Ask(HOURLY, TimeRange(since, until), NOW, 0), SeriesFact(HOURLY, false)])
        assert run(exchange, store, [Want(HOURLY, since, until)]).series[0].counts[State.OUT_OF_REACH] == 240
        assert run(exchange, store, [Want(HOURLY, since, until)], recheck=4000 * DAY).ok
        assert store.candles(HOURLY).equals(exchange.truth("BTC/USDT", "1h", since, until))
        assert store.ledger(HOURLY).facts == ()


def test_doubted_fact_holds_until_the_exchange_has_answered(exchange: LocalExchange, tmp_path: Path) -> None:
    """A run that learns nothing takes no fact back; one that walks to the end takes back what does not hold."""
    clock = "2024-06-20T12:30Z,0"
    faults = Faults((parse_fault("418:1,retry_after=3600,path=klines,symbol=BTC/USDT"),))
    span = aligned(HOURLY.frame, TimeRange(NOW - 12 * DAY, NOW - 2 * DAY))
    ended = Fact(span, State.AFTER_END, "no longer traded", NOW)
    want = Want(HOURLY, NOW - 12 * DAY, NOW - 2 * DAY)
    with open_store(tmp_path) as store:
        store.write([Ask(HOURLY, ended.range, NOW, 0), SeriesFact(HOURLY, ended)])
        with LocalExchange(ExchangeSettings(clock=clock, weight_limit=0, faults=faults)) as failing:
            report = run(failing, store, [want]).series[0]
        assert report.error is not None  # nothing was learnt, so nothing is taken back
        assert store.ledger(HOURLY).facts != ()
        assert run(exchange, store, [want]).ok
        assert store.ledger(HOURLY).facts == ()


def test_false_absences_are_asked_again_where_they_are_doubted(
    exchange: LocalExchange, tmp_path: Path
) -> None:
    """Slots wrongly called absent stay so under repair, and are brought where absences are doubted; the true ones stay."""
    since, until = NOW - 20 * DAY, NOW - 2 * DAY
    with open_store(tmp_path) as store:
        span = aligned(HOURLY.frame, TimeRange(since, until))
        truth = exchange.truth("BTC/USDT", "1h", span.since, span.until)
        holes = truth.filter(pl.int_range(pl.len()) % 50 > 2)
        store.write([Ask(HOURLY, span, NOW, 0), Page(CandlePage(HOURLY, span, holes, "test", NOW))])
        assert run(exchange, store, [Want(HOURLY, since, until)], repair=True).series[0].written == 0
        before = klines(exchange)
        report = run(exchange, store, [Want(HOURLY, since, until)], repair=True, doubt_absent=True)
        assert report.ok
        assert klines(exchange) - before <= 4
        assert store.candles(HOURLY).equals(truth)
