"""How pipelines begin, live side by side and end: loops, threads, processes, forks, stores and keys."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import chandlery as ch
from chandlery.exchange import LocalExchange
from chandlery.timeframe import HOUR
from chandlery.when import parse_when

CLOCK = "2024-06-01T00:10Z"
NOW = parse_when(CLOCK, now=0)


def klines(exchange: LocalExchange) -> int:
    """How many requests for candles the exchange saw."""
    return sum("klines" in record.path for record in exchange.requests)


def as_rows(frame: Any) -> list[list[float]]:
    """A frame of candles as fetch_ohlcv gives them."""
    return [list(row) for row in frame.with_columns(frame["time"].dt.epoch("ms")).rows()]


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
    """Argument, then CHANDLERY_STORE, else InfluxDB if a token is set, of which each missing setting is named."""
    monkeypatch.setenv("INFLUXDB_TOKEN", "t0k3n-of-influx")
    with ch.DataPipeline() as pipeline:
        with pytest.raises(ch.UsageError, match="INFLUXDB_ORG and INFLUXDB_BUCKET") as unset:
            pipeline.fetch_and_store("BTC/USDT", "1d", "5d")
        assert unset.value.hint
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        for name, value in (("URL", url), ("ORG", "desk"), ("BUCKET", "trading")):
            monkeypatch.setenv(f"INFLUXDB_{name}", value)
        with ch.DataPipeline() as pipeline:
            with pytest.raises(ch.DatabaseError, match=url) as down:
                pipeline.fetch_and_store("BTC/USDT", "1d", "5d")
            assert "t0k3n" not in str(down.value) + down.value.hint
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
