"""From Python into InfluxDB: in a script, in threads, inside a running event loop, after a fork, and forgotten at the end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import chandlery as ch
from chandlery.exchange import LocalExchange
from chandlery.stores.influx import InfluxStore

from .fixtures import Bucket, StartInfluxd

BTC = ch.SeriesId("binance", "BTC/USDT", "1h")
ETH = ch.SeriesId("binance", "ETH/USDT", "1h")


def script(text: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a user would, with every warning shown."""
    words = [sys.executable, "-W", "default", "-c", text]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_a_token_makes_influxdb_the_store(influx: Bucket, exchange: LocalExchange) -> None:
    """With INFLUXDB_TOKEN set and no other store named, DataPipeline stores into InfluxDB; what is read is the truth."""
    with ch.DataPipeline() as pipeline:
        report = pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-30")
        assert (bool(report), report.written) == (True, 48)
        assert isinstance(pipeline.store, InfluxStore)
        assert pipeline.store.url == influx.url
        frame = pipeline.store.read(BTC)
    since, until = frame["time"].dt.epoch("ms").min(), exchange.now_ms()
    assert isinstance(since, int)
    truth = exchange.truth("BTC/USDT", "1h", since, until)
    assert frame.equals(truth)
    assert influx.server.count(bucket=influx.name) == 48
    assert not Path("candles").exists()


def test_a_named_store_goes_before_the_token(influx: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument or CHANDLERY_STORE names another store, although there is a token."""
    with ch.DataPipeline(store="here") as pipeline:
        assert pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-31")
    monkeypatch.setenv("CHANDLERY_STORE", "there")
    with ch.DataPipeline() as pipeline:
        assert pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-31")
    assert Path("here").is_dir()
    assert Path("there").is_dir()
    assert influx.server.count(bucket=influx.name) == 0


def test_many_threads_share_one_pipeline(influx: Bucket) -> None:
    """Eight threads that store and read through one pipeline and through their own lose and double nothing."""
    with ch.DataPipeline() as shared, ThreadPoolExecutor(8) as pool:

        def work(number: int) -> int:
            symbol = ("BTC/USDT", "ETH/USDT")[number % 2]
            if number % 4 < 2:
                report = shared.fetch_and_store(symbol, "1h", "2024-05-30")
                read = shared.store.read(ch.SeriesId("binance", symbol, "1h")).height
            else:
                with ch.DataPipeline() as own:
                    report = own.fetch_and_store(symbol, "1h", "2024-05-30")
                    read = own.store.read(ch.SeriesId("binance", symbol, "1h")).height
            assert report.ok
            assert read == 48
            return int(report.written)

        written = list(pool.map(work, range(8)))
    assert sum(written) == 96
    assert influx.server.count(bucket=influx.name) == 96


def test_inside_a_running_event_loop(influx: Bucket) -> None:
    """DataPipeline works inside a running loop, and AsyncPipeline in it; the store reads there as well."""

    async def main() -> tuple[int, int, int]:
        with ch.DataPipeline() as blocking:
            first = blocking.fetch_and_store("BTC/USDT", "1h", "2024-05-30").written
        async with ch.AsyncPipeline() as pipeline:
            both = await asyncio.gather(
                pipeline.fetch_and_store("ETH/USDT", "1h", "2024-05-30"),
                pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-29"),
            )
            height = pipeline.store.read(BTC).height
        return first, both[0].written, both[1].written + height

    assert asyncio.run(main()) == (48, 48, 24 + 72)
    assert influx.server.count(bucket=influx.name) == 120


def test_a_store_that_nobody_closes_says_nothing(influx: Bucket) -> None:
    """Stores and pipelines left open at the end of a script give no warning and no traceback, and it ends at once."""
    done = script(
        "import chandlery as ch, gc\n"
        "pipeline = ch.DataPipeline(); print(pipeline.fetch_and_store('BTC/USDT', '1h', '2024-05-30').written)\n"
        "store = ch.open_store('influxdb'); print(store.read(ch.SeriesId('binance', 'BTC/USDT', '1h')).height)\n"
        "gone = ch.open_store('influxdb'); gone.series(); del gone; gc.collect()\n"
    )

    assert (done.returncode, done.stdout.split()) == (0, ["48", "48"])
    assert done.stderr == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_is_told(influx: Bucket) -> None:
    """A child forked while a pipeline and a store are open gets a clear error from both, and the parent goes on."""
    done = script(
        "import chandlery as ch, os, warnings\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        "series = ch.SeriesId('binance', 'BTC/USDT', '1h')\n"
        "pipeline = ch.DataPipeline(); pipeline.fetch_and_store('BTC/USDT', '1h', '2024-05-30')\n"
        "store = ch.open_store('influxdb'); store.read(series)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    for work in (lambda: pipeline.fetch_and_store('BTC/USDT', '1h', '2024-05-29'), lambda: store.opens(series)):\n"
        "        try: work()\n"
        "        except ch.DataPipelineError as error: print(type(error).__name__, '|', error, '|', error.hint, flush=True)\n"
        "    os._exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "print(pipeline.fetch_and_store('BTC/USDT', '1h', '2024-05-29').written, store.opens(series).size)\n"
        "pipeline.close(); store.close()\n"
    )

    assert done.returncode == 0, done.stderr
    *told, last = done.stdout.splitlines()
    assert last == "24 72"
    assert [line.split(" | ")[0] for line in told] == ["UsageError", "StoreUnreadable"]
    assert all("process" in line or "fork" in line for line in told)


def test_a_closed_store_and_a_server_that_is_gone(
    influx: Bucket, start_influxd: StartInfluxd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed store raises an error of ours; a server that is gone is DatabaseError that names it, and may be retried."""
    store = ch.open_store("influxdb")
    store.close()
    store.close()
    with pytest.raises(ch.DataPipelineError, match="closed"):
        store.read(BTC)

    server = start_influxd()
    for name, value in Bucket(server, server.bucket).environment.items():
        monkeypatch.setenv(name, value)
    server.kill()
    with ch.DataPipeline() as pipeline:
        with pytest.raises(ch.DatabaseError, match=str(server.port)) as caught:
            pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-30")
        assert caught.value.hint
        assert influx.token not in str(caught.value) + caught.value.hint
        server.start()
        assert pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-30").written == 48


def test_moments_of_every_kind_are_utc(influx: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Naive and aware times, text and epoch ms mean the same hour in UTC, in any time zone of the machine."""
    import time
    from datetime import UTC, date, datetime, timedelta, timezone

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        with ch.DataPipeline() as pipeline:
            moments = [
                datetime(2024, 5, 31),  # noqa: DTZ001 - naive on purpose
                datetime(2024, 5, 31, tzinfo=UTC),
                datetime(2024, 5, 31, 9, tzinfo=timezone(timedelta(hours=9))),
                date(2024, 5, 31),
                "2024-05-31",
                1_717_113_600_000,
            ]
            reports = [pipeline.fetch_and_store("BTC/USDT", "1h", moment) for moment in moments]
    finally:
        monkeypatch.setenv("TZ", "UTC")
        time.tzset()
    assert {report.since for report in reports} == {"2024-05-31T00:00:00Z"}
    assert [report.written for report in reports] == [24, 0, 0, 0, 0, 0]
    assert influx.server.count(bucket=influx.name) == 24


def test_a_store_says_where_it_is(influx: Bucket) -> None:
    """Printed, a store is its kind and its URL, without the token."""
    with ch.open_store("influxdb") as store:
        assert repr(store) == f"<InfluxStore {influx.url}>"
