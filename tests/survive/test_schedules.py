"""Scripted fault schedules: whatever a server does wrong, no candle is wrong, and what is missing is counted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from chandlery.backfill import Backfill, Want
from chandlery.candle import SeriesId
from chandlery.errors import DataPipelineError
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.faults import MIXED, Fault, Faults
from chandlery.export import digest
from chandlery.ledger import State
from chandlery.report import RunReport
from chandlery.sources import open_source
from chandlery.stores import open_store
from chandlery.testing.clock import VirtualClock
from chandlery.when import parse_when

SERIES = SeriesId("binance", "ETH/USDT", "1h")
SINCE = parse_when("2021-03-01", now=0)
UNTIL = parse_when("2023-07-01", now=0)
PAGES = 20
SCHEDULES = 1000
NOW = parse_when("2024-06-01", now=0)
KINDS = (*MIXED, "in_progress")


@pytest.fixture(scope="module")
def clock() -> VirtualClock:
    """Time that both sides share."""
    return VirtualClock(NOW)


@pytest.fixture(scope="module")
def exchange(clock: VirtualClock) -> Iterator[LocalExchange]:
    """One server over HTTP, its faults set anew for each schedule."""
    with LocalExchange(ExchangeSettings(weight_limit=0), clock=clock) as running:
        yield running


def run(exchange: LocalExchange, clock: VirtualClock, folder: Path) -> RunReport | DataPipelineError:
    """One fetch into a fresh store, waits on virtual time."""

    async def fetch() -> RunReport:
        source = open_source("binance", url=exchange.url, clock=clock, state_dir=folder / "state")
        async with source:
            with open_store(folder / "candles") as store:
                return await Backfill(source, store).run([Want(SERIES, SINCE, UNTIL)])

    try:
        return asyncio.run(fetch())
    except DataPipelineError as error:
        return error


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(2))
def test_fault_schedules(
    part: int,
    exchange: LocalExchange,
    clock: VirtualClock,
    tmp_path: Path,
    seed: int,
    proven_count: Callable[[int], int],
) -> None:
    """Of schedules with up to 30 % mixed faults 99 % end complete and right; the others say what is missing."""
    exchange.faults = Faults()
    truth = exchange.truth(SERIES.symbol, SERIES.timeframe, SINCE, UNTIL)
    clean = run(exchange, clock, tmp_path / "clean")
    assert isinstance(clean, RunReport)
    assert clean.ok
    with open_store(tmp_path / "clean" / "candles") as store:
        assert store.candles(SERIES).equals(truth)
        expected = digest(store, SERIES)

    schedules = proven_count(SCHEDULES) // 2
    incomplete: list[int] = []
    for number in range(schedules):
        drawn = random.Random(f"{seed} {part} {number}").randrange(2**31)
        share = random.Random(drawn).uniform(0.02, 0.3)
        rule = Fault("mixed", probability=share, max_in_a_row=4, kinds=KINDS)
        before = sum(record.path.endswith("/klines") for record in exchange.requests)
        exchange.faults = Faults((rule,), seed=drawn)
        folder = tmp_path / str(number)
        report = run(exchange, clock, folder)
        asked = sum(record.path.endswith("/klines") for record in exchange.requests) - before
        note = f"seed {seed}, part {part}, schedule {number}, fault seed {drawn}, share {share:.3f}"
        if isinstance(report, DataPipelineError):
            incomplete.append(drawn)
            continue
        check(report, folder / "candles", truth, expected, note)
        if not report.ok:
            incomplete.append(drawn)
        else:
            assert asked >= PAGES, note
    assert len(incomplete) <= schedules * 0.01, (
        f"seed {seed}: incomplete schedules {incomplete} of {schedules}"
    )


def check(report: RunReport, folder: Path, truth: pl.DataFrame, expected: str, note: str) -> None:
    """A complete run has the digest of a clean one; an incomplete one has only right candles and counts the rest."""
    with open_store(folder, create=False) as store:
        stored = store.candles(SERIES)
        wrong = stored.join(truth, on=stored.columns, how="anti")
        assert wrong.is_empty(), f"{note}: wrong candles {wrong}"
        assert not store.revisions(SERIES), f"{note}: a wrong candle was stored for a while"
        if report.ok:
            assert digest(store, SERIES) == expected, note
            return
    one = report.series[0]
    slots = SERIES.frame.count(SINCE, UNTIL)
    assert sum(one.counts.values()) == slots, note
    not_there = one.counts[State.MISSING] + one.counts[State.QUARANTINED] + one.counts[State.ABSENT]
    assert stored.height + not_there == slots, note
    assert one.counts[State.MISSING] >= truth.height - stored.height - one.counts[State.QUARANTINED], note
    with open_store(folder, create=False) as store:
        gaps = store.account(SERIES).gaps
    claimed = [gap for gap in gaps if gap.state is State.ABSENT]
    opens = truth["time"].dt.epoch("ms")
    for gap in claimed:
        hidden = opens.is_between(gap.since, gap.until, closed="left").any()
        assert not hidden, f"{note}: a candle that the exchange has is called absent"
    # What is neither stored nor refused nor rightly absent is missing: the count is exact.
    counted = sum(gap.candles for gap in claimed) + one.counts[State.QUARANTINED]
    assert one.counts[State.MISSING] == slots - stored.height - counted, note
    absent = slots - truth.height
    assert one.counts[State.ABSENT] <= absent, f"{note}: candles that the exchange has are called absent"
