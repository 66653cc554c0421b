"""DataPipeline and AsyncPipeline against the local exchange, through the real ccxt."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import chandlery as ch
from chandlery.exchange import ExchangeSettings, Fault, Faults, LocalExchange
from chandlery.ledger import SLOTS
from chandlery.timeframe import DAY, HOUR
from chandlery.when import parse_when

CLOCK = "2024-06-01T00:10Z"
NOW = parse_when(CLOCK, now=0)


@pytest.fixture(scope="module")
def shared_exchange() -> Iterator[LocalExchange]:
    """One local exchange for the tests of this file."""
    with LocalExchange(ExchangeSettings(clock=CLOCK)) as local:
        yield local


@pytest.fixture
def exchange(
    shared_exchange: LocalExchange, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[LocalExchange]:
    """The exchange in EXCHANGE_URL, without faults and with an empty log, and an empty folder to work in."""
    monkeypatch.setenv("EXCHANGE_URL", shared_exchange.url)
    monkeypatch.chdir(tmp_path)
    shared_exchange.forget_requests()
    yield shared_exchange
    shared_exchange.faults = Faults()


@pytest.fixture
def pipeline(exchange: LocalExchange) -> Iterator[ch.DataPipeline]:
    """A pipeline of the exchange that stores into ./candles and repeats at once."""
    with ch.DataPipeline(retry_delay=0) as made:
        yield made


def klines(exchange: LocalExchange) -> int:
    """How many requests for candles the exchange saw."""
    return sum("klines" in record.path for record in exchange.requests)


def as_rows(frame: Any) -> list[list[float]]:
    """A frame of candles as fetch_ohlcv gives them."""
    return [list(row) for row in frame.with_columns(frame["time"].dt.epoch("ms")).rows()]


# -- fetch_ohlcv -----------------------------------------------------------------------------------------------------


def test_fetch_ohlcv_gives_the_last_candles_and_the_open_one(
    pipeline: ch.DataPipeline, exchange: LocalExchange, tmp_path: Path
) -> None:
    """Without since: the last 5, ascending, the candle that is still open last, and nothing is stored."""
    rows = pipeline.fetch_ohlcv("BTC/USDT", "1h", limit=5)

    opens = [row[0] for row in rows]
    newest = NOW // HOUR * HOUR
    assert opens == [newest - back * HOUR for back in (4, 3, 2, 1, 0)]
    assert rows[:-1] == as_rows(exchange.truth("BTC/USDT", "1h", newest - 4 * HOUR, newest))
    assert all(type(row) is list and type(row[0]) is int and len(row) == 6 for row in rows)
    assert list(tmp_path.iterdir()) == []


def test_without_since_the_rows_are_those_of_plain_ccxt(
    pipeline: ch.DataPipeline, exchange: LocalExchange
) -> None:
    """Over outages too: the last `limit` candles that the exchange has, row by row as ccxt gives them."""
    client = pipeline.exchange
    for timeframe, limits in (("1h", (1, 2, 24, 997, 998, 999, 1000)), ("1m", (3, 1000)), ("1d", (500,))):
        for limit in limits:
            plain = client.fetch_ohlcv("BTC/USDT", timeframe, None, limit)
            ours = pipeline.fetch_ohlcv("BTC/USDT", timeframe, None, limit)
            assert len(ours) == len(plain) == limit
            assert ours[:-1] == plain[:-1]
            assert ours[-1][0] == plain[-1][0]


def test_fetch_ohlcv_begins_at_the_listing(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """`listing` begins with the first candle that the exchange has."""
    rows = pipeline.fetch_ohlcv("BTC/USDT", "1d", "listing", 3)

    assert rows == pipeline.fetch_ohlcv("BTC/USDT", "1d", 0, 3)


@pytest.mark.parametrize("name", ["fetch_ohlcv", "fetch_and_store"])
def test_a_symbol_that_is_none_is_a_usage_error(pipeline: ch.DataPipeline, name: str) -> None:
    """None for a symbol is named as such, not a TypeError from the depths."""
    with pytest.raises(ch.UsageError, match="symbol is None"):
        getattr(pipeline, name)(None, "1h", "1d")


def test_fetch_ohlcv_begins_at_since(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """With since: the first candles from there on, at most limit of them, as ms, date, datetime or text."""
    since = NOW // DAY * DAY - 10 * DAY
    expected = as_rows(exchange.truth("ETH/USDT", "1h", since, since + 24 * HOUR))

    assert len(expected) == 24
    for moment in (since, datetime.fromtimestamp(since / 1000, UTC), date(2024, 5, 22), "2024-05-22"):
        assert pipeline.fetch_ohlcv("ETH/USDT", "1h", moment, 24) == expected


def test_fetch_ohlcv_gives_one_answers_worth(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """A limit above the exchange's page is one request for candles and at most that page."""
    rows = pipeline.fetch_ohlcv("BTC/USDT", "1h", NOW - 400 * DAY, 5_000)

    assert klines(exchange) == 1
    assert 900 < len(rows) <= 1000
    assert rows == sorted(rows)


@pytest.mark.parametrize("kind", ["5xx", "html", "cut", "empty"])
@pytest.mark.parametrize(("used", "tries"), [(0, 4), (2, 2), (3, 1)])
def test_network_errors_are_repeated_as_the_original_did(
    pipeline: ch.DataPipeline, exchange: LocalExchange, kind: str, used: int, tries: int
) -> None:
    """An exchange that never answers is asked once and then as often as retry_count leaves of 3; then ExchangeError."""
    pipeline.fetch_ohlcv("BTC/USDT", "1h", limit=1)
    exchange.faults = Faults((Fault(kind, path="klines"),))
    exchange.forget_requests()

    with pytest.raises(ch.ExchangeError):
        pipeline.fetch_ohlcv("BTC/USDT", "1h", None, 10, used)
    assert klines(exchange) == tries


def test_a_passing_error_is_survived(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """Three broken answers and then a good one: the candles come."""
    exchange.faults = Faults((Fault("5xx", path="klines", requests=(1, 2, 3)),))

    assert len(pipeline.fetch_ohlcv("BTC/USDT", "1h", limit=3)) == 3


def test_a_permanent_error_is_not_repeated(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """An unknown symbol or timeframe is an ExchangeError at once, which names it; no candle is asked for."""
    with pytest.raises(ch.ExchangeError, match="BTC/USDX") as error:
        pipeline.fetch_ohlcv("BTC/USDX")
    assert isinstance(error.value, ch.UnknownSymbol)
    assert "BTC/USDT" in error.value.hint
    with pytest.raises(ch.ExchangeError, match="7h"):
        pipeline.fetch_ohlcv("BTC/USDT", "7h")
    assert klines(exchange) == 0


@pytest.mark.parametrize("limit", [0, -1, True, 2.5])
def test_a_limit_that_cannot_be_is_refused(pipeline: ch.DataPipeline, limit: Any) -> None:
    """A limit that is no whole number above 0 is a UsageError that names it."""
    with pytest.raises(ch.UsageError, match=str(limit)):
        pipeline.fetch_ohlcv("BTC/USDT", limit=limit)


# -- fetch_and_store -------------------------------------------------------------------------------------------------


def test_fetch_and_store_stores_what_the_exchange_has(
    pipeline: ch.DataPipeline, exchange: LocalExchange, tmp_path: Path
) -> None:
    """The closed candles from start_date to the exchange's now are in ./candles, equal to the exchange's own."""
    report = pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-20")

    truth = exchange.truth("BTC/USDT", "1h", NOW - 12 * DAY - 10 * 60_000, NOW)
    kept = ch.open_store(tmp_path / "candles").read(ch.SeriesId("binance", "BTC/USDT", "1h"))
    assert as_rows(kept) == as_rows(truth)
    assert report
    assert report.written == len(truth)


def test_the_report_has_the_fields_of_fetch_json(pipeline: ch.DataPipeline) -> None:
    """Every field is a key and an attribute, of the run and of its series; the whole is JSON."""
    report = pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-30", "2024-05-31")

    run = {"ok", "seconds", "requests", "retries", "weight", "series"}
    series = {"exchange", "symbol", "timeframe", "kind", "since", "until", "fetched", "written", "error"}
    assert set(report) == run | series | set(SLOTS)
    assert all(getattr(report, key) == report[key] for key in report)
    assert (report.ok, report["symbol"], report.error) == (True, "BTC/USDT", None)
    assert (report.since, report.until) == ("2024-05-30T00:00:00Z", "2024-05-31T00:00:00Z")
    assert report.fetched == report.written == 24 - report.absent
    assert report.series[0]["written"] == report.written
    assert json.loads(json.dumps(dict(report))) == dict(report)
    with pytest.raises(AttributeError, match="nonsense"):
        report.nonsense  # noqa: B018
    with pytest.raises(KeyError):
        report["nonsense"]


@pytest.mark.parametrize(
    "start",
    [
        "2024-05-30",
        "2024-05-30T02:00+02:00",
        date(2024, 5, 30),
        datetime(2024, 5, 30),  # noqa: DTZ001 - naive on purpose
        datetime(2024, 5, 30, tzinfo=UTC),
        1_717_027_200_000,
    ],
)
def test_a_start_may_be_written_in_many_ways(pipeline: ch.DataPipeline, start: Any) -> None:
    """Text, date, naive datetime (UTC), aware datetime and milliseconds mean the same moment."""
    report = pipeline.fetch_and_store("ETH/USDT", "4h", start, "2024-05-31")

    assert (report.since, report.written) == ("2024-05-30T00:00:00Z", 6)


def test_a_second_call_writes_nothing_and_goes_on_from_the_first(
    pipeline: ch.DataPipeline, exchange: LocalExchange
) -> None:
    """What is there is neither written nor asked for again; an earlier start fetches only what lies before."""
    pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-10", "2024-05-20")
    exchange.forget_requests()
    again = pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-10", "2024-05-20")
    assert (again.written, klines(exchange), bool(again)) == (0, 0, True)

    wider = pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-09", "2024-05-20")
    assert wider.written == 24 - wider.absent + again.absent


def test_each_report_counts_its_own_requests(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """The requests of a report are those of its run, not of all runs of the pipeline so far."""
    pipeline.fetch_and_store("BTC/USDT", "1h", "2024-03-01", "2024-05-20")
    exchange.forget_requests()
    report = pipeline.fetch_and_store("BTC/USDT", "4h", "2024-05-10", "2024-05-20")

    assert 0 < report.requests <= len(exchange.requests)


@pytest.mark.parametrize(
    ("symbol", "timeframe", "start", "end", "named"),
    [
        ("BTC/NONE", "1h", "7d", None, "BTC/NONE"),
        ("BTC/USDT", "7h", "7d", None, "7h"),
        ("BTC/USDT", "1h", "yesterday", None, "yesterday"),
        ("BTC/USDT", "1h", "2024-05-02", "2024-05-01", "2024-05-02"),
        ("BTC/USDT", "1h", "2030-01-01", None, "2030-01-01"),
        ("BTC/USDT", "1h", object(), None, "object"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_it_and_makes_no_store(
    pipeline: ch.DataPipeline, tmp_path: Path, symbol: str, timeframe: str, start: Any, end: Any, named: str
) -> None:
    """A wrong symbol, timeframe or range is a UsageError with the value and a hint; no folder appears."""
    with pytest.raises(ch.UsageError, match=named) as error:
        pipeline.fetch_and_store(symbol, timeframe, start, end)
    assert error.value.hint
    assert list(tmp_path.iterdir()) == []


def test_total_failure_raises(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """An exchange that refuses every request for candles raises ExchangeError."""
    exchange.faults = Faults((Fault("418", path="klines", retry_after=100_000),))

    with pytest.raises(ch.ExchangeError):
        pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-01")


def test_partial_failure_is_a_report_that_is_false(
    pipeline: ch.DataPipeline, exchange: LocalExchange, tmp_path: Path
) -> None:
    """Pages, then a ban: the report is false, names the error and what is missing, and the pages are kept."""
    day = 400 * DAY
    exchange.faults = Faults((Fault("418", path="klines", retry_after=100_000, since=NOW - day // 2),))
    report = pipeline.fetch_and_store("BTC/USDT", "1h", NOW - day)

    assert not report
    assert report.error
    assert report.missing > 0
    kept = ch.open_store(tmp_path / "candles").read(ch.SeriesId("binance", "BTC/USDT", "1h")).height
    assert kept == report.written > 0


# -- life ------------------------------------------------------------------------------------------------------------


def test_an_invalid_exchange_is_the_originals_error(exchange: LocalExchange) -> None:
    """An id that ccxt does not know, or that no id can be, raises ExchangeError with the original's words."""
    for wrong in ("xyz", "no/such exchange"):
        with pytest.raises(ch.ExchangeError, match=f"Invalid exchange ID: .?{wrong}") as error:
            ch.DataPipeline(wrong)
        assert error.value.hint


def test_closing_twice_is_fine_and_use_after_it_is_an_error(exchange: LocalExchange) -> None:
    """After close every method and property says that the pipeline is closed and what to do."""
    pipeline = ch.DataPipeline()
    pipeline.fetch_and_store("BTC/USDT", "1h", "1d")
    pipeline.close()
    pipeline.close()

    for use in (
        lambda: pipeline.fetch_ohlcv("BTC/USDT"),
        lambda: pipeline.fetch_and_store("BTC/USDT", "1h", "1d"),
        lambda: pipeline.exchange,
        lambda: pipeline.store,
        pipeline.__enter__,
    ):
        with pytest.raises(ch.UsageError, match="closed"):
            use()


def test_it_works_inside_a_running_loop_and_in_threads(exchange: LocalExchange) -> None:
    """The synchronous pipeline gives the same rows in a coroutine, in eight threads at once and in the main thread."""
    with ch.DataPipeline() as pipeline:
        here = pipeline.fetch_ohlcv("BTC/USDT", "4h", limit=20)

        async def inside() -> list[list[float]]:
            return pipeline.fetch_ohlcv("BTC/USDT", "4h", limit=20)

        with ThreadPoolExecutor(8) as pool:
            there = list(pool.map(lambda _: pipeline.fetch_ohlcv("BTC/USDT", "4h", limit=20), range(8)))
        assert [row[:-1] for row in there] == [here[:-1]] * 8
        assert asyncio.run(inside())[:-1] == here[:-1]


def test_threads_may_store_the_same_series_at_once(exchange: LocalExchange, tmp_path: Path) -> None:
    """Six threads that store the same series through one pipeline all succeed, and each candle is written once."""
    with ch.DataPipeline() as pipeline, ThreadPoolExecutor(6) as pool:
        reports = list(
            pool.map(
                lambda _: pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-20", "2024-05-30"), range(6)
            )
        )

    assert all(reports)
    kept = ch.open_store(tmp_path / "candles").read(ch.SeriesId("binance", "BTC/USDT", "1h")).height
    assert sum(report.written for report in reports) == kept == 240 - reports[0].absent


def test_pipelines_of_one_process_wait_for_one_another(exchange: LocalExchange, tmp_path: Path) -> None:
    """Three threads, each with a pipeline of its own, and a fourth in an event loop of its own store one series."""

    def store(n: int) -> ch.FetchReport:
        with ch.DataPipeline(store=tmp_path / "candles") as pipeline:
            return pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-20", "2024-05-30")

    async def alone() -> ch.FetchReport:
        async with ch.AsyncPipeline(store=tmp_path / "candles") as pipeline:
            return await pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-20", "2024-05-30")

    with ThreadPoolExecutor(4) as pool:
        coming = [pool.submit(store, n) for n in range(3)] + [pool.submit(lambda: asyncio.run(alone()))]
        reports = [one.result(30) for one in coming]

    assert all(reports)
    assert sum(report.written for report in reports) == 240 - reports[0].absent


def test_who_gives_up_waiting_lets_the_next_one_go(tmp_path: Path) -> None:
    """A turn that is cancelled while it waits is passed over, and nothing of the queue is left behind."""
    from chandlery.pipeline import turns

    series = ch.SeriesId("binance", "BTC/USDT", "1h")
    order: list[str] = []

    async def take(name: str) -> None:
        async with turns.turn(str(tmp_path), series):
            order.append(name)
            await asyncio.sleep(0.02)

    async def main() -> None:
        tasks = [asyncio.create_task(take(name)) for name in "abcd"]
        await asyncio.sleep(0.005)
        tasks[1].cancel()
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert order == ["a", "c", "d"]
    assert not turns._queues


def test_another_process_that_writes_is_an_error_with_a_hint_for_python(
    exchange: LocalExchange, tmp_path: Path
) -> None:
    """SeriesLocked names the other process, and its hint names no option of the command line."""
    code = (
        "import sys, chandlery as ch\n"
        "with ch.open_store('candles') as store, store.lock(ch.SeriesId('binance', 'BTC/USDT', '1h')):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with ch.DataPipeline() as pipeline, pytest.raises(ch.SeriesLocked, match=str(other.pid)) as error:
            pipeline.fetch_and_store("BTC/USDT", "1h", "3d")
    assert "--" not in error.value.hint
    assert "wait" in error.value.hint


def test_a_timeframe_that_the_server_refuses_leaves_nothing_behind(
    pipeline: ch.DataPipeline, exchange: LocalExchange
) -> None:
    """A server without the 1s that ccxt lists: one request for candles, UnknownTimeframe, and no series that lacks candles."""
    with pytest.raises(ch.UnknownTimeframe, match="1120"):
        pipeline.fetch_and_store("BTC/USDT", "1s", "2d")

    assert klines(exchange) == 1
    assert pipeline.store.series() == []
    assert pipeline.fetch_and_store("BTC/USDT", "1h", "1d")


def test_the_async_pipeline_is_the_same_core(exchange: LocalExchange, tmp_path: Path) -> None:
    """AsyncPipeline gives the same rows and reports, several series at once in the caller's own loop."""

    async def work() -> tuple[list[list[float]], list[ch.FetchReport]]:
        async with ch.AsyncPipeline("binance", store=tmp_path / "async") as pipeline:
            rows = await pipeline.fetch_ohlcv("BTC/USDT", "1h", NOW - 10 * HOUR, 5)
            reports = await asyncio.gather(
                *(pipeline.fetch_and_store(symbol, "1h", "7d") for symbol in ("BTC/USDT", "ETH/USDT"))
            )
            assert threading.current_thread() is threading.main_thread()
            return rows, reports

    rows, reports = asyncio.run(work())
    with ch.DataPipeline(store=f"file:{tmp_path / 'sync'}") as pipeline:
        assert pipeline.fetch_ohlcv("BTC/USDT", "1h", NOW - 10 * HOUR, 5) == rows
        report = pipeline.fetch_and_store("BTC/USDT", "1h", "7d")
    assert all(reports)
    assert reports[0].written == report.written


def test_a_store_handed_in_stays_open(exchange: LocalExchange, tmp_path: Path) -> None:
    """An open Store given to the pipeline is used, and is the caller's to close."""
    with ch.open_store(tmp_path / "mine") as store:
        with ch.DataPipeline(store=store) as pipeline:
            assert pipeline.store is store
            assert pipeline.fetch_and_store("BTC/USDT", "1d", "5d")
        assert (
            store.read(ch.SeriesId("binance", "BTC/USDT", "1d")).height == 4
        )  # whole days of five times 24 hours


def test_the_store_is_chosen_as_documented(
    exchange: LocalExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Argument, then CHANDLERY_STORE, else InfluxDB if a token is set, which this version refuses with the mend."""
    monkeypatch.setenv("INFLUXDB_TOKEN", "t0k3n-of-influx")
    with ch.DataPipeline() as pipeline:
        with pytest.raises(ch.DatabaseError, match="InfluxDB") as error:
            pipeline.fetch_and_store("BTC/USDT", "1d", "5d")
        assert "CHANDLERY_STORE" in error.value.hint
        assert "t0k3n" not in str(error.value)
        assert pipeline.fetch_ohlcv("BTC/USDT", limit=1)
    monkeypatch.setenv("CHANDLERY_STORE", str(tmp_path / "named"))
    with ch.DataPipeline() as pipeline:
        assert pipeline.fetch_and_store("BTC/USDT", "1d", "5d")
    with ch.DataPipeline(store="given") as pipeline:
        assert pipeline.fetch_and_store("BTC/USDT", "1d", "5d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "named"]


def test_exchange_is_the_ccxt_object_of_the_same_server(
    pipeline: ch.DataPipeline, exchange: LocalExchange
) -> None:
    """`.exchange` is ccxt's synchronous class, asks the same server, has no keys, and is made once."""
    import ccxt

    client = pipeline.exchange

    assert isinstance(client, ccxt.binance)
    assert pipeline.exchange is client
    rows = client.fetch_ohlcv("BTC/USDT", "1h", NOW - 10 * HOUR, 3)
    assert rows == pipeline.fetch_ohlcv("BTC/USDT", "1h", NOW - 10 * HOUR, 3)
    assert "binance" not in "".join(record.path for record in exchange.requests)


def test_keys_are_not_sent_unless_asked(
    exchange: LocalExchange, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With keys in the environment neither core nor `.exchange` has them, until `signed`; no log line shows them."""
    monkeypatch.setenv("EXCHANGE_API_KEY", "c4n4ry-key")
    monkeypatch.setenv("EXCHANGE_SECRET", "c4n4ry-secret")
    caplog.set_level(logging.DEBUG, "chandlery")
    with ch.DataPipeline() as pipeline:
        pipeline.fetch_and_store("BTC/USDT", "1h", "1d")
        assert not pipeline.exchange.apiKey
        assert not pipeline.exchange.secret
    with ch.DataPipeline(signed=True) as pipeline:
        assert pipeline.exchange.apiKey == "c4n4ry-key"
        assert "c4n4ry" not in repr(pipeline) + repr(pipeline.settings) + repr(vars(pipeline))
    assert "c4n4ry" not in caplog.text


def test_a_forgotten_close_is_silent(exchange: LocalExchange) -> None:
    """A pipeline that is dropped without close is closed behind the scenes: no warning, no ccxt message."""
    code = (
        "import gc, time, chandlery as ch\n"
        "def use():\n"
        "    pipeline = ch.DataPipeline(); pipeline.fetch_and_store('BTC/USDT', '1h', '1d')\n"
        "    pipeline.exchange.fetch_time()\n"
        "use(); gc.collect(); time.sleep(0.2)\n"
        "kept = ch.DataPipeline(); kept.fetch_ohlcv('BTC/USDT')\n"
        "print('end')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert (done.returncode, done.stdout) == (0, "end\n")
    assert done.stderr == ""


NEVER_CLOSED = """
import chandlery as ch
pipeline = ch.DataPipeline()
print(pipeline.fetch_and_store('BTC/USDT', '1h', '3d').ok)
"""

LEFT_TO_A_THREAD = """
import threading, time, chandlery as ch
def work():
    time.sleep(0.3)
    with ch.DataPipeline() as pipeline:
        print(pipeline.fetch_and_store('BTC/USDT', '1h', '3d').ok)
threading.Thread(target=work).start()
"""

THREE_THREADS = """
import threading, chandlery as ch
def work(folder):
    with ch.DataPipeline(store=folder) as pipeline:
        print(pipeline.fetch_and_store('BTC/USDT', '1h', '3d').ok)
for folder in ('candles', './candles', 'other/../candles'):
    threading.Thread(target=work, args=(folder,)).start()
"""


@pytest.mark.parametrize(
    ("code", "times"),
    [(NEVER_CLOSED, 1), (LEFT_TO_A_THREAD, 1), (THREE_THREADS, 3)],
    ids=["end", "thread", "three"],
)
def test_a_script_that_closes_nothing_ends_silently(
    exchange: LocalExchange, tmp_path: Path, code: str, times: int
) -> None:
    """A pipeline in use or open at the end of its script finishes its work and closes its store without a word."""
    (tmp_path / "other").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n" * times, "")
    assert not list((tmp_path / "candles").glob("*-wal"))  # SQLite removes it when the last user closes
    kept = ch.open_store(tmp_path / "candles").read(ch.SeriesId("binance", "BTC/USDT", "1h"))
    assert 60 < kept.height <= 72


def test_a_forgotten_pipeline_lets_go_of_its_core(exchange: LocalExchange) -> None:
    """Nothing keeps a dropped pipeline alive: its core is closed soon after."""
    pipeline = ch.DataPipeline()
    core = pipeline._core
    pipeline.fetch_ohlcv("BTC/USDT", limit=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del pipeline
        gc.collect()
        deadline = datetime.now(UTC) + timedelta(seconds=5)
        while not core._closed and datetime.now(UTC) < deadline:
            threading.Event().wait(0.01)
    assert core._closed


USED_BEFORE_FORK = """
import os, sys, chandlery as ch
pipeline = ch.DataPipeline()
first = pipeline.fetch_ohlcv('BTC/USDT', '1h', 1717000000000, 3)
if (child := os.fork()) == 0:
    for use in (lambda: pipeline.fetch_ohlcv('BTC/USDT'), ch.DataPipeline, ch.AsyncPipeline):
        try:
            use()
        except ch.UsageError as error:
            print('process' in str(error), 'fork' in error.hint, flush=True)
    pipeline.close()
    os._exit(0)  # as multiprocessing does
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(pipeline.fetch_ohlcv('BTC/USDT', '1h', 1717000000000, 3) == first)
pipeline.close()
"""

FORKED_BEFORE_USE = """
import os, sys, chandlery as ch
child = os.fork()
with ch.DataPipeline() as pipeline:
    print(len(pipeline.fetch_ohlcv('BTC/USDT', '1h', 1717000000000, 3)), flush=True)
if child:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [(USED_BEFORE_FORK, ["True True"] * 3 + ["0", "True"]), (FORKED_BEFORE_USE, ["3", "3", "0"])],
)
def test_a_fork_is_survived_or_refused(exchange: LocalExchange, code: str, said: list[str]) -> None:
    """Forked before the first use, parent and child both work; after it, the child gets a clear error and no deadlock."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == said
