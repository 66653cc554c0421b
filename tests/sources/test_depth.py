"""A depth that a probe has learnt, and that is wrong: what can be had is fetched all the same, and never called out of reach."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chandlery.backfill import Backfill, Want
from chandlery.candle import SeriesId
from chandlery.exchange import ExchangeSettings, Fault, Faults, LocalExchange
from chandlery.ledger import Fact, State
from chandlery.report import SeriesReport
from chandlery.sources import open_source
from chandlery.sources.base import beyond
from chandlery.sources.profile import Habits, Profile
from chandlery.sources.profile_book import ProfileBook
from chandlery.stores import open_store
from chandlery.stores.base import SeriesFact, Store
from chandlery.testing.clock import VirtualClock
from chandlery.timeframe import DAY, MINUTE
from chandlery.timerange import TimeRange
from chandlery.when import parse_when

NOW = parse_when("2024-06-20T12:30:20Z", now=0)
BTC = SeriesId("binance", "BTC/USDT", "1m")


def learn(tmp_path: Path, depth: int, exchange: str = "binance") -> None:
    """Keep a learnt profile of that depth."""
    habits = Habits(page=500, depth={"*": depth}, depth_by="time", empty="flat")
    ProfileBook(tmp_path / "state").save(Profile(exchange, {"spot": habits}, origin="probed"))


def fill(
    exchange: LocalExchange, clock: VirtualClock, tmp_path: Path, store: Store, *wants: Want
) -> list[SeriesReport]:
    """One run with a source of its own."""

    async def run() -> list[SeriesReport]:
        name = wants[0].series.exchange
        state = tmp_path / "state"
        async with open_source(name, url=exchange.url, clock=clock, state_dir=state) as source:
            return (await Backfill(source, store).run(wants)).series

    return asyncio.run(run())


def asked(exchange: LocalExchange) -> int:
    """How many requests for candles the server has seen."""
    return sum("kline" in record.path or record.path.endswith("/OHLC") for record in exchange.requests)


@pytest.mark.parametrize("kind", ["html", "5xx", "reset", "429", "empty"])
def test_one_fault_proves_no_depth(kind: str, tmp_path: Path) -> None:
    """One broken answer to the look behind a learnt depth that is too small calls nothing out of reach."""
    clock = VirtualClock(NOW)
    learn(tmp_path, 1000)
    settings = ExchangeSettings(exchange="binance", weight_limit=0)
    with LocalExchange(settings, clock=clock) as exchange, open_store("memory:") as store:
        exchange.faults = Faults((Fault(kind, requests=(1,), path="klines"),))
        (report,) = fill(exchange, clock, tmp_path, store, Want(BTC, NOW - 2 * DAY))
    assert report.error is None
    assert report.counts[State.OUT_OF_REACH] == report.counts[State.MISSING] == 0
    assert report.counts[State.STORED] == 2 * 1440 - 1  # the last one has just closed: pending


def test_a_young_market_proves_no_depth_for_others(tmp_path: Path) -> None:
    """That a market listed yesterday has nothing older says nothing of the others, and of itself that it was not listed."""
    clock = VirtualClock(parse_when("2024-05-29T12:00:20Z", now=0))
    learn(tmp_path, 1440)
    wants = [
        Want(SeriesId("binance", symbol, "1m"), clock.now_ms() - 3 * DAY)
        for symbol in ("IO/USDT", "BTC/USDT")
    ]
    settings = ExchangeSettings(exchange="binance", weight_limit=0)
    with LocalExchange(settings, clock=clock) as exchange, open_store("memory:") as store:
        young, old = fill(exchange, clock, tmp_path, store, *wants)
    assert young.counts[State.BEFORE_LISTING] > 1440
    assert young.counts[State.OUT_OF_REACH] == young.counts[State.MISSING] == 0
    assert old.counts[State.OUT_OF_REACH] == old.counts[State.MISSING] == 0


def test_an_outage_at_the_boundary_proves_no_depth(tmp_path: Path) -> None:
    """Where the candles just before a learnt depth are missing because of an outage, those before it are fetched."""
    clock = VirtualClock(parse_when("2024-02-25T03:50:20Z", now=0))
    learn(tmp_path, 600)
    settings = ExchangeSettings(exchange="binance", weight_limit=0)
    with LocalExchange(settings, clock=clock) as exchange, open_store("memory:") as store:
        (report,) = fill(exchange, clock, tmp_path, store, Want(BTC, clock.now_ms() - 3 * DAY))
    assert report.counts[State.OUT_OF_REACH] == report.counts[State.MISSING] == 0


def test_what_rested_on_a_wrong_depth_is_fetched_by_the_next_run(tmp_path: Path) -> None:
    """Slots that an earlier run called out of reach by a learnt depth are asked for again once it proves wrong, without --repair."""
    clock = VirtualClock(NOW)
    settings = ExchangeSettings(exchange="binance", weight_limit=0)
    since = BTC.frame.ceil(NOW - 2 * DAY)
    oldest = BTC.frame.floor(NOW) - 999 * MINUTE
    with LocalExchange(settings, clock=clock) as exchange, open_store("memory:") as store:
        fill(exchange, clock, tmp_path, store, Want(BTC, oldest))
        gone = TimeRange(since, oldest)
        with store.lock(BTC):
            store.write([SeriesFact(BTC, Fact(gone, State.OUT_OF_REACH, beyond(BTC, oldest), NOW))])
        learn(tmp_path, 1000)
        clock.move(60)
        (report,) = fill(exchange, clock, tmp_path, store, Want(BTC, since))
        facts = store.ledger(BTC).facts
    assert report.counts[State.OUT_OF_REACH] == report.counts[State.MISSING] == 0
    assert not facts


def test_a_learnt_depth_that_holds_is_kept(tmp_path: Path) -> None:
    """Where an exchange gives nothing before a learnt depth though there was trade, that is out of reach, after a few looks."""
    clock = VirtualClock(NOW)
    kraken = SeriesId("kraken", "BTC/USDT", "1m")
    habits = Habits(page=720, heeds_limit=False, depth={"*": 719}, depth_by="time", empty="flat")
    ProfileBook(tmp_path / "state").save(Profile("kraken", {"spot": habits}, origin="probed"))
    settings = ExchangeSettings(exchange=("kraken",), weight_limit=0)
    with LocalExchange(settings, clock=clock) as exchange, open_store("memory:") as store:
        (first,) = fill(exchange, clock, tmp_path, store, Want(kraken, NOW - 3 * DAY))
        looks = asked(exchange)
        clock.move(60)
        (second,) = fill(exchange, clock, tmp_path, store, Want(kraken, NOW - 3 * DAY))
    assert first.counts[State.STORED] == 718  # of 719 one is in progress
    assert first.counts[State.OUT_OF_REACH] == 3 * 1440 - 719
    assert second.counts[State.OUT_OF_REACH] == first.counts[State.OUT_OF_REACH]
    assert not first.counts[State.BEFORE_LISTING] + first.counts[State.MISSING] + first.counts[State.ABSENT]
    assert looks <= 9
