"""Back-fill: only what is missing is asked for, and every slot of what was wanted is accounted for."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chandlery.backfill import Backfill, Want
from chandlery.candle import SeriesId
from chandlery.errors import ExchangeError, SeriesLocked, StoreUnreadable, UnknownSymbol, UsageError
from chandlery.exchange import ExchangeSettings, Faults, LocalExchange, parse_fault
from chandlery.ledger import State, aligned
from chandlery.report import PlanReport, RunReport, Silent
from chandlery.sources import open_source
from chandlery.stores import open_store
from chandlery.timeframe import DAY, HOUR, MINUTE
from chandlery.timerange import TimeRange
from chandlery.verify import verify_series
from chandlery.when import parse_when

from .backfilling import HOURLY, NOW, klines, run


@pytest.fixture(scope="module")
def exchange() -> Iterator[LocalExchange]:
    """A local exchange at half past twelve, for ever."""
    with LocalExchange(ExchangeSettings(clock="2024-06-20T12:30Z,0", weight_limit=0)) as running:
        yield running


class _Told(Silent):
    """Keeps what a person would be told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, series: SeriesId | None, text: str) -> None:
        self.texts.append(text)


def test_second_run_asks_for_nothing(exchange: LocalExchange, tmp_path: Path) -> None:
    """What is complete and older than the recheck is neither asked for nor written again."""
    want = Want(HOURLY, NOW - 90 * DAY, NOW - 2 * DAY)
    with open_store(tmp_path) as store:
        first = run(exchange, store, [want])
        assert first.ok
        truth = exchange.truth("BTC/USDT", "1h", NOW - 90 * DAY, NOW - 2 * DAY)
        assert store.candles(HOURLY).equals(truth)
        assert first.series[0].written == truth.height
        asked, last = klines(exchange), max(entry.seq for entry in store.journal())
        second = run(exchange, store, [want])
        assert second.ok
        assert klines(exchange) == asked
        assert max(entry.seq for entry in store.journal()) == last


def test_extends_both_ways_and_joins(exchange: LocalExchange, tmp_path: Path) -> None:
    """Ranges asked earlier, later and overlapping become one history without a seam."""
    spans = [(40, 30), (60, 50), (55, 35), (25, 20)]
    with open_store(tmp_path) as store:
        for since, until in spans:
            assert run(exchange, store, [Want(HOURLY, NOW - since * DAY, NOW - until * DAY)]).ok
        assert len(store.ledger(HOURLY).answered_ranges) == 2
        assert run(exchange, store, [Want(HOURLY, NOW - 60 * DAY, NOW - 20 * DAY)]).ok
        assert len(store.ledger(HOURLY).answered) == 1
        truth = exchange.truth("BTC/USDT", "1h", NOW - 60 * DAY, NOW - 20 * DAY)
        assert store.candles(HOURLY).equals(truth)


def test_candle_in_progress_is_pending(exchange: LocalExchange, tmp_path: Path) -> None:
    """The open candle is accounted for as pending and not stored; the run is complete all the same."""
    with open_store(tmp_path) as store:
        report = run(exchange, store, [Want(HOURLY, NOW - DAY)]).series[0]
        assert report.ok
        assert report.counts[State.PENDING] == 1
        last = store.opens(HOURLY)[-1]
        assert last == NOW - NOW % HOUR - HOUR
        assert verify_series(store, HOURLY).ok


def test_fresh_candles_are_asked_again_and_changes_kept(tmp_path: Path) -> None:
    """A candle that changed within a day of its close is a revision; an older one is left alone."""
    clock = "2024-06-20T12:30Z,0"
    want = Want(HOURLY, NOW - 10 * DAY)
    with open_store(tmp_path) as store:
        with LocalExchange(ExchangeSettings(clock=clock, weight_limit=0)) as before:
            assert run(before, store, [want]).ok
            old = store.candles(HOURLY)
        with LocalExchange(ExchangeSettings(clock=clock, weight_limit=0, seed=2)) as after:
            assert run(after, store, [want], recheck=0).series[0].fetched == 0
            told = _Told()
            report = run(after, store, [want], progress=told).series[0]
            run(after, store, [want], progress=told)
            truth = after.truth("BTC/USDT", "1h", NOW - 10 * DAY, NOW)
        kept = store.candles(HOURLY)
        revisions = store.revisions(HOURLY)
        assert report.written == len(revisions)
        # 24 candles have closed in the last 24 hours.
        assert len(revisions) == 24
        assert kept[:-24].equals(old[:-24])
        assert kept[-24:].equals(truth[-24:])
        assert revisions[-1].old == old.row(-1)[1:]
        # Said by the run that saw it, and by no other.
        (text,) = told.texts
        assert text.startswith("24 candles have changed since they were stored")
        assert "chandlery probe binance" in text


def test_long_range_in_several_walks_has_no_seam(exchange: LocalExchange, tmp_path: Path) -> None:
    """A range that is walked in parts side by side is the same as the exchange's."""
    series = SeriesId("binance", "ETH/USDT", "1m")
    since, until = NOW - 60 * DAY, NOW - 2 * DAY
    with open_store(tmp_path) as store:
        before = klines(exchange)
        report = run(exchange, store, [Want(series, since, until)])
        assert report.ok
        pages = (until - since) / MINUTE / 999
        assert klines(exchange) - before <= pages * 1.15 + 25
        assert store.candles(series).equals(exchange.truth("ETH/USDT", "1m", since, until))
        assert len(store.ledger(series).answered) == 1


def test_range_before_the_listing(exchange: LocalExchange, tmp_path: Path) -> None:
    """Slots before the first candle are before_listing, found in few requests, and the run is complete."""
    since = parse_when("2015-01-01", now=0)
    listed = parse_when("2017-08-17T04:00Z", now=0)
    with open_store(tmp_path) as store:
        for timeframe in ("1h", "1d"):
            series = SeriesId("binance", "BTC/USDT", timeframe)
            until = parse_when("2017-10-01", now=0)
            before = klines(exchange)
            report = run(exchange, store, [Want(series, since, until)]).series[0]
            assert report.ok, report.error
            assert klines(exchange) - before <= 25
            assert report.counts[State.BEFORE_LISTING] == series.frame.count(
                since, series.frame.floor(listed)
            )
            assert store.opens(series)[0] == series.frame.floor(listed)


def test_listing_as_since(exchange: LocalExchange, tmp_path: Path) -> None:
    """--since listing begins at the first candle."""
    series = SeriesId("binance", "BTC/USDT", "1d")
    with open_store(tmp_path) as store:
        report = run(exchange, store, [Want(series, "listing", parse_when("2018-01-01", now=0))]).series[0]
        assert report.ok
        assert report.counts[State.BEFORE_LISTING] == 0
        assert report.span.since == parse_when("2017-08-17", now=0)


def test_weeks_and_months(exchange: LocalExchange, tmp_path: Path) -> None:
    """Weeks and months go by the calendar and are complete."""
    with open_store(tmp_path) as store:
        for timeframe in ("3d", "1w", "1M"):
            series = SeriesId("binance", "BTC/USDT", timeframe)
            since, until = parse_when("2021-01-01", now=0), parse_when("2024-05-01", now=0)
            report = run(exchange, store, [Want(series, since, until)]).series[0]
            assert report.ok, (timeframe, report)
            assert store.candles(series).equals(exchange.truth("BTC/USDT", timeframe, since, until))


def test_unknown_symbol_among_good_ones(exchange: LocalExchange, tmp_path: Path) -> None:
    """One symbol that does not exist is told in its report and stops nothing else."""
    wrong = SeriesId("binance", "BTC/USDX", "1h")
    with open_store(tmp_path) as store:
        report = run(exchange, store, [Want(wrong, NOW - DAY), Want(HOURLY, NOW - DAY)])
        assert not report.ok
        assert isinstance(report.series[0].error, UnknownSymbol)
        assert report.series[0].error.hint
        assert report.series[1].ok
        assert not store.knows(wrong)


def test_nothing_that_can_be_started(exchange: LocalExchange, tmp_path: Path) -> None:
    """If no series can be started the run raises, and no store is made."""
    wants = [Want(SeriesId("binance", "BTC/USDX", "1h"), NOW - DAY), Want(HOURLY, NOW + DAY)]
    with open_store(tmp_path / "candles") as store, pytest.raises(UnknownSymbol, match="BTC/USDX"):
        run(exchange, store, wants)
    with open_store(tmp_path / "candles") as store, pytest.raises(UsageError, match="in the future"):
        run(exchange, store, wants[1:])
    assert not (tmp_path / "candles").exists()


def test_locked_series_is_left_to_its_writer(exchange: LocalExchange, tmp_path: Path) -> None:
    """A series that another process writes is refused with its pid; the other series go on."""
    other = SeriesId("binance", "ETH/USDT", "1h")
    hold = (
        "import sys; from chandlery import SeriesId, open_store\n"
        "with open_store(sys.argv[1]) as s, s.lock(SeriesId('binance', 'BTC/USDT', '1h')):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / "candles")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        with open_store(tmp_path / "candles") as store:
            report = run(exchange, store, [Want(HOURLY, NOW - DAY), Want(other, NOW - DAY)])
        error = report.series[0].error
        assert isinstance(error, SeriesLocked)
        assert error.pid == holder.pid
        assert report.series[1].ok
        holder.communicate()


def test_cancelled_run_goes_on_where_it_stopped(exchange: LocalExchange, tmp_path: Path) -> None:
    """A run that is cancelled keeps what it stored, and the next one asks only for the rest."""
    series = SeriesId("binance", "BTC/USDT", "5m")
    since, until = NOW - 120 * DAY, NOW - 30 * DAY

    async def broken() -> None:
        async with open_source("binance", url=exchange.url) as source:
            task = asyncio.create_task(Backfill(source, store).run([Want(series, since, until)]))
            while store_pages() < 8:  # noqa: ASYNC110 - the server is a thread that sets no event
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    def store_pages() -> int:
        return klines(exchange) - before

    with open_store(tmp_path) as store:
        before = klines(exchange)
        asyncio.run(broken())
        there = store.candles(series).height
        assert there > 0
        verdict = verify_series(store, series)
        assert verdict.account.counts[State.MISSING] > 0
        assert verdict.unexplained == 0
        before = klines(exchange)
        report = run(exchange, store, [Want(series, since, until)])
        assert report.ok
        missing = sum(gap.state is State.MISSING for gap in verdict.account.gaps)
        assert store_pages() <= (report.series[0].written / 999) + 3 + 3 * (missing + 3)
        assert store.candles(series).equals(exchange.truth("BTC/USDT", "5m", since, until))


def test_known_series_goes_on_from_its_earliest_ask(exchange: LocalExchange, tmp_path: Path) -> None:
    """Without since a known series is topped up, a new one takes 30 days."""
    with open_store(tmp_path) as store:
        assert run(exchange, store, [Want(HOURLY, NOW - 9 * DAY, NOW - 5 * DAY)]).ok
        report = run(exchange, store, [Want(HOURLY), Want(SeriesId("binance", "ETH/USDT", "1h"))])
        assert report.ok
        assert report.series[0].span.since == HOURLY.frame.ceil(NOW - 9 * DAY)
        assert report.series[1].span.since == HOURLY.frame.ceil(NOW - 30 * DAY)


@pytest.mark.parametrize(
    ("timeframe", "since", "until"),
    [("1h", "2024-06-01T00:10", "2024-06-01T00:50"), ("1w", "2024-06-04", "2024-06-09")],
)
def test_range_without_a_slot_is_a_usage_error(
    exchange: LocalExchange, tmp_path: Path, timeframe: str, since: str, until: str
) -> None:
    """A range in which no candle opens is refused with its bounds and timeframe, and nothing is made."""
    series = SeriesId("binance", "BTC/USDT", timeframe)
    want = Want(series, parse_when(since, now=NOW), parse_when(until, now=NOW))
    with (
        open_store(tmp_path / "candles") as store,
        pytest.raises(UsageError, match=f"{timeframe}.*2024-06-0"),
    ):
        run(exchange, store, [want])
    assert not (tmp_path / "candles").exists()


def test_new_monthly_series_takes_the_month_under_way(tmp_path: Path) -> None:
    """Without since a new series has a slot even where none opened in the last 30 days."""
    series = SeriesId("binance", "BTC/USDT", "1M")
    with (
        LocalExchange(ExchangeSettings(clock="2024-05-31T12:30Z,0", weight_limit=0)) as exchange,
        open_store(tmp_path) as store,
    ):
        report = run(exchange, store, [Want(series)]).series[0]
        assert report.ok
        assert report.span.since == parse_when("2024-05-01", now=0)


def test_refused_run_says_what_is_missing(tmp_path: Path) -> None:
    """Where the exchange does not even say what it lists, the report has the wanted range, and all of it missing."""
    faults = Faults((parse_fault("418:1,retry_after=3600,path=exchangeInfo"),))
    settings = ExchangeSettings(clock="2024-06-20T12:30Z,0", weight_limit=0, faults=faults)
    with LocalExchange(settings) as exchange, open_store(tmp_path) as store:
        report = run(exchange, store, [Want(HOURLY, NOW - 2 * DAY, NOW)]).series[0]
        assert isinstance(report.error, ExchangeError)
        assert report.span == aligned(HOURLY.frame, TimeRange(NOW - 2 * DAY, NOW))
        assert report.counts[State.MISSING] == 47
        assert report.counts[State.PENDING] == 1


@pytest.mark.parametrize("how", ["moved", "deleted", "catalogue"])
def test_store_that_goes_away_during_a_run_is_told(exchange: LocalExchange, tmp_path: Path, how: str) -> None:
    """A store that is moved or deleted while it is written ends the run with an error, and no new one is begun."""
    place, other = tmp_path / "candles", tmp_path / "other"
    series = SeriesId("binance", "BTC/USDT", "5m")
    since, until = NOW - 120 * DAY, NOW - 30 * DAY
    before = klines(exchange)

    async def work() -> RunReport:
        async with open_source("binance", url=exchange.url) as source:
            task = asyncio.create_task(Backfill(source, store).run([Want(series, since, until)]))
            while klines(exchange) - before < 8 or not (place / "catalogue.sqlite").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            if how == "moved":
                place.rename(other)
            elif how == "deleted":
                shutil.rmtree(place)
            else:
                for file in place.glob("catalogue.sqlite*"):
                    file.unlink()
            return await task

    with open_store(place) as store:
        report = asyncio.run(work())
    error = report.series[0].error
    assert isinstance(error, StoreUnreadable)
    assert "moved or deleted" in str(error)
    assert not list(tmp_path.glob("candles/catalogue.sqlite"))
    assert (how == "catalogue") == place.exists()
    if how == "moved":
        with open_store(other) as moved:
            assert verify_series(moved, series).unexplained == 0


def test_plan_asks_for_no_candle_and_writes_nothing(exchange: LocalExchange, tmp_path: Path) -> None:
    """A plan names ranges and requests, and leaves no store behind."""

    async def plan() -> PlanReport:
        async with open_source("binance", url=exchange.url) as source:
            return await Backfill(source, store).plan([Want(HOURLY, NOW - 100 * DAY, NOW - 10 * DAY)])

    before = klines(exchange)
    with open_store(tmp_path / "candles") as store:
        planned = asyncio.run(plan())
    assert klines(exchange) == before
    assert not (tmp_path / "candles").exists()
    assert planned.requests == 3
    assert planned.series[0].ranges[0].range.until == HOURLY.frame.ceil(NOW - 10 * DAY)
