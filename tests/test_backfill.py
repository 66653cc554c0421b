"""Back-fill: only what is missing is asked for, and every slot of what was wanted is accounted for."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest

from chandlery.backfill import PAGES_A_WALK, Backfill, Want, _parts
from chandlery.candle import CandlePage, SeriesId
from chandlery.errors import ExchangeError, SeriesLocked, StoreUnreadable, UnknownSymbol, UsageError
from chandlery.exchange import ExchangeSettings, Faults, LocalExchange, parse_fault
from chandlery.ledger import Fact, State, aligned
from chandlery.report import PlanReport, Progress, RunReport, Silent
from chandlery.sources import open_source
from chandlery.stores import open_store
from chandlery.stores.base import Ask, Page, SeriesFact, Store
from chandlery.testing.clock import VirtualClock
from chandlery.timeframe import DAY, HOUR, MINUTE
from chandlery.timerange import TimeRange
from chandlery.verify import verify_series
from chandlery.when import parse_when

NOW = parse_when("2024-06-20T12:30Z", now=0)
HOURLY = SeriesId("binance", "BTC/USDT", "1h")


@pytest.fixture(scope="module")
def exchange() -> Iterator[LocalExchange]:
    """A local exchange at half past twelve, for ever."""
    with LocalExchange(ExchangeSettings(clock="2024-06-20T12:30Z,0", weight_limit=0)) as running:
        yield running


def run(
    exchange: LocalExchange,
    store: Store,
    wants: Sequence[Want],
    *,
    recheck: int = DAY,
    repair: bool = False,
    doubt_absent: bool = False,
    progress: Progress | None = None,
) -> RunReport:
    """One run with a source of its own."""

    async def fetch() -> RunReport:
        async with open_source("binance", url=exchange.url) as source:
            backfill = Backfill(
                source, store, recheck=recheck, repair=repair, doubt_absent=doubt_absent, progress=progress
            )
            return await backfill.run(wants)

    return asyncio.run(fetch())


class _Told(Silent):
    """Keeps what a person would be told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, series: SeriesId | None, text: str) -> None:
        self.texts.append(text)


def klines(exchange: LocalExchange) -> int:
    """How many requests for candles the server has seen."""
    return sum(record.path.endswith("/klines") for record in exchange.requests)


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
            start = "listing" if way == "listing" else since
            assert run(exchange, store, [Want(series, start, until)], repair=way == "repair").ok
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


@pytest.mark.parametrize("slots", [1, 998, 999, 40_000, 261_640, 5_000_003])
@pytest.mark.parametrize("walks", [1, 8, 32])
def test_parts_cost_no_request(slots: int, walks: int) -> None:
    """A long range is cut into whole pages less the overlap, large parts first; nothing is left out or there twice."""
    frame, fresh = HOURLY.frame, 999
    begin = frame.floor(NOW) - slots * HOUR
    parts = list(_parts(TimeRange(begin, frame.floor(NOW)), frame, -(-slots // fresh), lambda: walks))
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
