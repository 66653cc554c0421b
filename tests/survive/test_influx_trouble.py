"""What is taken away or goes wrong in the bucket while a fetch runs into it: it stops or goes on, and says the truth."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.influx.fixtures import StartInfluxd
from tests.influx.influx_server import InfluxServer

from chandlery.candle import SeriesId
from chandlery.config import load_settings
from chandlery.errors import DatabaseError
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.stores.influx_http import InfluxHttp
from chandlery.stores.influx_place import place_of

from .influx_run import (
    Run,
    check_ledger,
    check_whole,
    delete,
    fetch_words,
    plant,
    points_of,
    running,
)

SERIES = SeriesId("binance", "BTC/USDT", "1m")
SPAN = "2024-02-01/2024-03-01"


def words() -> list[str]:
    """The fetch of these tests."""
    return fetch_words([SERIES.symbol], SERIES.timeframe, SPAN)


def start_and_wait(run: Run, requests: int = 5) -> subprocess.Popen[str]:
    """Start the fetch and wait until it is well under way: the ledger has an answer."""
    start = run.candles_asked
    process = run.start(*words())
    run.wait_for_requests(start + requests, process)
    while not run.server.count("ohlcv", run.bucket, field="volume"):
        assert process.poll() is None, "the run was over too soon"
    return process


def check_stopped(process: subprocess.Popen[str], *expected: str) -> str:
    """It ended with 4 and one error that says all this."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4, out + err
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, err
    for words in expected:
        assert words in err
    assert "Traceback" not in err
    return err


@pytest.mark.slow
def test_token_revoked_half_way(run: Run) -> None:
    """A token that is revoked under a fetch ends it with one clear error; nothing is lost, another one goes on."""
    token = run.server.new_token(read=[run.bucket], write=[run.bucket])
    run.use_token(token)
    process = start_and_wait(run)
    run.server.revoke(token)
    check_stopped(process, "does not take the token", "INFLUXDB_TOKEN")
    assert token not in process.args, "the token stood on a command line"
    run.use_token(run.server.new_token(read=[run.bucket], write=[run.bucket]))
    with run.store() as store:
        assert check_ledger(store, SERIES, run.truth(SERIES, SPAN)) < run.truth(SERIES, SPAN).height
    again = run.command(*words())
    assert again.code == 0, again.err
    check_whole(run, [(SERIES, SPAN)], words())


@pytest.mark.slow
def test_bucket_deleted_half_way(run: Run) -> None:
    """A bucket that is deleted under a fetch ends it; it is not made again unasked, and a new one is filled from nothing."""
    process = start_and_wait(run)
    run.server.delete_bucket(run.bucket)
    check_stopped(process, run.bucket, "chandlery influx setup")
    found = run.server.ask("GET", f"/api/v2/buckets?name={run.bucket}")
    assert not found.json.get("buckets"), "it was made again"
    asked = run.candles_asked
    again = run.command(*words())
    assert again.code == 2
    assert f"there is no bucket {run.bucket!r}" in again.err
    assert "chandlery influx setup" in again.err
    assert run.candles_asked == asked
    run.server.new_bucket(run.bucket)
    anew = run.command(*words())
    assert anew.code == 0, anew.err
    check_whole(run, [(SERIES, SPAN)], words())


def test_wrong_type_planted_before(run: Run) -> None:
    """A bucket that holds an integer price is refused before the first byte, with the mend; no candle is asked for."""
    plant(run, "ohlcv,symbol=BTC_USDT,timeframe=1m,exchange=kraken open=1i 1706745600000")
    asked = run.candles_asked
    refused = run.command(*words())
    assert refused.code == 4
    assert "ohlcv.open an integer" in refused.err
    assert "hint: " in refused.err
    assert "chandlery influx setup --bucket" in refused.err
    assert run.candles_asked == asked
    assert sum(points_of(run).values()) == 0, "something was written"


@pytest.mark.slow
def test_one_percent_rejected(exchange: LocalExchange, influxd: InfluxServer, tmp_path: Path) -> None:
    """Candles of a week that the server comes to reject are quarantined with its reason; all others are stored.

    Verify counts them; in a bucket without the cause, into which all is copied, verify --repair brings them.
    """
    series, span = SeriesId("binance", "ETH/USDT", "1h"), "2022-01-03/2023-11-27"
    week = ("2023-11-20", "2023-11-27")  # a shard of InfluxDB is a week from Monday on
    with running(exchange, influxd, tmp_path) as run:
        start = run.candles_asked
        process = run.start(*fetch_words([series.symbol], "1h", span))
        run.wait_for_requests(start + 1, process)  # the bucket was checked
        plant(run, f"ohlcv,symbol=X_Y,timeframe=1m,exchange=other volume=1i {_ms(week[0])}")
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1, err
        truth, rejected = run.truth(series, span), run.truth(series, "/".join(week))
        assert 0.009 < rejected.height / truth.height < 0.011
        with run.store() as store:
            stored = store.candles(series)
            assert stored.equals(truth.filter(truth["time"] < rejected["time"][0]))
            refused = store.quarantine(series)
        assert [one.row.open for one in refused] == rejected["time"].dt.epoch("ms").to_list()
        assert all("field type conflict" in one.row.reason for one in refused)
        assert not any(one.resolved for one in refused)
        verified = run.command("verify", "ETH/USDT", "-t", "1h", "--store", "influxdb", "--json")
        assert verified.code == 1
        (found,) = verified.json["series"]
        assert (found["quarantined"], found["missing"], found["stored"]) == (
            rejected.height,
            0,
            stored.height,
        )
        assert found["unexplained"] == 0
        still = run.command("verify", "ETH/USDT", "-t", "1h", "--repair", "--store", "influxdb")
        assert still.code == 4, still.err  # preflight: the cause is still there, and named
        assert "ohlcv.volume an integer" in still.err
        assert "chandlery copy" in still.err
        # The mend that the error names: a bucket of its own, and what is kept brought over.
        other = run.server.new_bucket()
        copied = run.command("copy", run.server.store_url(run.bucket), run.server.store_url(other))
        assert copied.code == 0, copied.out + copied.err
        healed = run.command("verify", "--repair", "--store", run.server.store_url(other))
        assert healed.code == 0, healed.out + healed.err
        run.use_bucket(other)
        check_whole(run, [(series, span)], fetch_words([series.symbol], "1h", span))
        with run.store() as store:
            assert [one.row.open for one in store.quarantine(series)] == [one.row.open for one in refused]
            assert all(one.resolved for one in store.quarantine(series))


def _ms(day: str) -> int:
    return round(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def test_retention(influxd: InfluxServer, tmp_path: Path) -> None:
    """A bucket of 30 days refuses an ask of 60, and names the moment from which on it can keep; 20 days it keeps."""
    series = SeriesId("binance", "BTC/USDT", "1h")
    bucket = influxd.new_bucket(retention_seconds=30 * 86_400)
    with (
        LocalExchange(ExchangeSettings(weight_limit=0)) as exchange,
        running(exchange, influxd, tmp_path, bucket=bucket) as run,
    ):
        common = ["fetch", "BTC/USDT", "-t", "1h", "--store", "influxdb"]
        refused = run.command(*common, "--since", "60d")
        assert refused.code == 4
        moment = re.search(r"--since (\S+) or later", refused.err)
        assert moment is not None, refused.err
        said = datetime.fromisoformat(moment[1]).astimezone(UTC)
        horizon = datetime.now(UTC) - timedelta(days=30)
        assert abs(said - horizon) < timedelta(days=1, hours=1), refused.err
        assert run.candles_asked == 0, "candles were asked for that cannot be kept"
        assert sum(points_of(run).values()) == 0
        kept = run.command(*common, "--since", moment[1])
        assert kept.code == 0, f"the moment that was named is refused: {kept.err}"
        kept = run.command(*common, "--since", "20d", "--until", "12h")
        assert kept.code == 0, kept.err
        verified = run.command("verify", "--store", "influxdb", "--json")
        assert verified.code == 0, verified.out
        first, now = said - timedelta(days=1), datetime.now(UTC)
        whole = run.truth(series, f"{first:%Y-%m-%d}/{now + timedelta(days=1):%Y-%m-%d}")
        with run.store() as store:
            assert store.candles(series).equals(whole.filter(whole["time"] >= said))


@pytest.mark.slow
def test_retention_at_a_later_time(influxd: InfluxServer, tmp_path: Path) -> None:
    """What a bucket has forgotten as it was told to is not missed: verify is fine without it, and fetch tops up."""
    bucket = influxd.new_bucket(retention_seconds=2 * 86_400, shard_seconds=86_400)
    with (
        LocalExchange(ExchangeSettings(weight_limit=0)) as exchange,
        running(exchange, influxd, tmp_path, bucket=bucket) as run,
    ):
        common = ["fetch", "BTC/USDT", "-t", "1m", "--store", "influxdb"]
        assert run.command(*common, "--since", "46h").code == 0
        day = datetime.now(UTC) - timedelta(days=2)
        # The server drops whole shards, of all measurements: so does this.
        delete(run, "1970-01-01T00:00:00Z", f"{day:%Y-%m-%dT23:59:59.999999999Z}", "")
        verified = run.command("verify", "--store", "influxdb")
        assert verified.code == 0, verified.out + verified.err
        asked = run.candles_asked
        topped_up = run.command("fetch", "--store", "influxdb", "--recheck", "0")
        assert topped_up.code == 0, topped_up.err
        assert run.candles_asked <= asked + 1, "what was forgotten is fetched again"


def test_patience_is_lost_once(
    start_influxd: StartInfluxd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that stays away is waited for once, not by each question anew; one that comes back is waited for again."""
    server = start_influxd()
    monkeypatch.setenv("INFLUXDB_TOKEN", server.token)
    http = InfluxHttp(place_of(server.store_url(), load_settings()), patience=0.5)

    def waits() -> bool:
        caplog.clear()
        with pytest.raises(DatabaseError, match="does not answer"):
            http.run(http.ask("GET", "/ping"))
        return "asking again" in caplog.text

    try:
        for _ in range(2):
            assert http.run(http.ask("GET", "/ping")).status == 204
            server.stop()
            assert waits()
            assert not waits()
            server.start()
    finally:
        http.close()
