"""The original system on a real InfluxDB 2: its own test script, ours of the same name, its names and its settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.timeframe import HOUR

from .fixtures import Bucket

PROJECT = Path(__file__).resolve().parents[2]
SCRIPTS = PROJECT / "data-pipeline"
#: The test script as its authors wrote it, to the letter.
ORIGINAL = Path(__file__).with_name("original_test_data_pipeline.txt")
SERIES = [(symbol, frame) for symbol in ("BTC/USDT", "ETH/USDT") for frame in ("1h", "4h", "1d")]
#: All that is added to it is where its import comes from.
RUN = f"""
import runpy, sys
sys.path.insert(0, {str(SCRIPTS)!r})
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.fixture(scope="module")
def exchange() -> Iterator[LocalExchange]:
    """A local exchange with the time of this host, for the original asks from its own now."""
    with LocalExchange(ExchangeSettings()) as running:
        yield running


@pytest.fixture(scope="module")
def still() -> Iterator[LocalExchange]:
    """A local exchange whose clock stands still, for what must not change from one minute to the next."""
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:01Z,0")) as running:
        yield running


@pytest.fixture
def environment(
    bucket: Bucket, exchange: LocalExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """What the original finds in its environment; in this process too."""
    found = {
        **bucket.environment,
        "EXCHANGE_URL": exchange.url,
        "CHANDLERY_LOGS": str(tmp_path / "logs"),
        "PYTHONPATH": f"{SCRIPTS}{os.pathsep}{PROJECT / 'src'}",
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, **found}


def python(*words: object, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the interpreter of these tests in a folder."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env=env,
    )


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles", "Pacific/Kiritimati"])
def test_the_original_script_passes_in_any_time_zone(
    zone: str, bucket: Bucket, environment: dict[str, str], tmp_path: Path
) -> None:
    """The original's own text gives six ✅ and no ❌, from another folder, whatever the machine's time zone is."""
    done = python("-c", RUN, ORIGINAL, cwd=tmp_path, env={**environment, "TZ": zone})

    assert done.returncode == 0, done.stderr
    passed = [line.partition("✅ ")[2] for line in done.stderr.splitlines() if "✅" in line]
    assert passed == [f"Test passed for {symbol} ({frame})" for symbol, frame in SERIES]
    assert "❌" not in done.stderr
    assert "Traceback" not in done.stderr
    assert " - ERROR - " not in done.stderr
    assert bucket.token not in done.stdout + done.stderr
    assert done.stderr.count("Data pipeline test completed") == 1
    assert "Initialized DataPipeline with exchange: binance" in done.stderr
    assert bucket.server.count(bucket=bucket.name) > 2 * (140 + 35 + 5)
    assert not (tmp_path / "candles").exists()


def test_the_script_of_that_name_passes(
    bucket: Bucket, still: LocalExchange, environment: dict[str, str], tmp_path: Path
) -> None:
    """`python data-pipeline/test_data_pipeline.py` gives six ✅ and exit code 0; run again, it writes no candle."""
    environment = {**environment, "EXCHANGE_URL": still.url}
    for _ in (1, 2):
        done = python(SCRIPTS / "test_data_pipeline.py", cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        marks = [line for line in done.stdout.splitlines() if line[:1] in "✅❌"]
        assert marks == [f"✅ {symbol} {frame}" for symbol, frame in SERIES]
        assert bucket.token not in done.stdout + done.stderr
    assert all("Stored 0 " in line for line in done.stderr.splitlines() if "Stored " in line)
    assert not (tmp_path / "candles").exists()


def test_settings_of_the_secrets_file_are_enough(
    bucket: Bucket, exchange: LocalExchange, tmp_path: Path
) -> None:
    """With nothing in the environment, the original finds `secrets/.env.binance` above the folder of its scripts."""
    scripts = tmp_path / "system" / "data-pipeline"
    scripts.mkdir(parents=True)
    for name in ("data_pipeline.py", "logger.py"):
        (scripts / name).write_bytes((SCRIPTS / name).read_bytes())
    (scripts / "test_data_pipeline.py").write_bytes(ORIGINAL.read_bytes())
    secrets = tmp_path / "system" / "secrets" / ".env.binance"
    secrets.parent.mkdir()
    lines = {**bucket.environment, "EXCHANGE_URL": exchange.url}
    secrets.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    secrets.chmod(0o600)
    env = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    done = python(scripts / "test_data_pipeline.py", cwd=tmp_path, env=env)

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("✅") == 6, done.stderr
    assert list((scripts / "logs").glob("error_*.log"))


VERIFY = """
import sys
from data_pipeline import DataPipeline
from test_data_pipeline import verify_data_in_influxdb as verify
"""


def told(script: str, environment: dict[str, str], folder: Path) -> list[str]:
    """What a script that can verify prints."""
    done = python("-c", VERIFY + script, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_verify_tells_the_truth(
    bucket: Bucket, still: LocalExchange, environment: dict[str, str], tmp_path: Path
) -> None:
    """verify_data_in_influxdb is true while every slot since start_date is accounted for; false once a row is deleted
    behind its back, an hour is forgotten, or the start is older than what was loaded; true again after another load.
    """
    environment = {**environment, "EXCHANGE_URL": still.url}
    day = still.now_ms() // HOUR * HOUR - 72 * HOUR
    load = f"\nwith DataPipeline() as p: print(bool(p.fetch_and_store('BTC/USDT', '1h', {day})))\n"
    ask = f"\nprint(verify('BTC/USDT', '1h', {day}), verify('BTC/USDT', '1h', {day - HOUR}), verify('BTC/USDT', '4h', {day}))\n"
    assert told(ask, environment, tmp_path) == ["False"] * 3
    assert told(load + ask, environment, tmp_path) == ["True", "True", "False", "False"]
    assert bucket.server.count(bucket=bucket.name) == 72

    where = f"/api/v2/delete?org={bucket.server.org}&bucket={bucket.name}"
    assert bucket.server.ask("POST", where, _delete(day + 5 * HOUR)).status == 204
    assert bucket.server.count(bucket=bucket.name) == 71
    assert told(ask, environment, tmp_path)[0] == "False"

    heal = """
import subprocess
subprocess.run([sys.executable, "-m", "chandlery", "verify", "--repair", "-q", "--store", "influxdb"],
               check=True, stdout=subprocess.DEVNULL)
"""
    assert told(heal + ask, environment, tmp_path)[0] == "True"

    forget = f"""
import chandlery as ch
with ch.open_store("influxdb") as store:
    store.forget(ch.SeriesId("binance", "BTC/USDT", "1h"), ch.TimeRange({day + 9 * HOUR}, {day + 10 * HOUR}))
"""
    assert told(forget + ask, environment, tmp_path)[0] == "True"  # what is stored is stored, answered or not
    assert bucket.server.ask("POST", where, _delete(day + 9 * HOUR)).status == 204
    assert told(ask, environment, tmp_path)[0] == "False"
    assert told(heal + ask, environment, tmp_path)[0] == "True"
    assert bucket.server.count(bucket=bucket.name) == 72


def _delete(opened: int) -> bytes:
    """The body that has the server delete one candle."""
    span = f'"start":"{_rfc(opened)}","stop":"{_rfc(opened + 1)}"'
    return f'{{{span},"predicate":"_measurement=\\"ohlcv\\""}}'.encode()


def _rfc(moment: int) -> str:
    return (
        datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def test_a_server_that_is_down_fails_six_times(
    environment: dict[str, str], bucket: Bucket, tmp_path: Path
) -> None:
    """Where no InfluxDB listens, no line says ✅, the reason is told, and no candle goes anywhere else."""
    down = {**environment, "INFLUXDB_URL": "http://127.0.0.1:9"}
    done = python(SCRIPTS / "test_data_pipeline.py", cwd=tmp_path, env=down)

    assert done.returncode == 1
    marks = [line for line in done.stdout.splitlines() if line[:1] in "✅❌"]
    assert [line[0] for line in marks] == ["❌"] * 6
    assert all("no InfluxDB answers" in line for line in marks)
    assert not (tmp_path / "candles").exists()


NAMES = """
import logging
import ccxt, influxdb_client, pandas, dotenv
import data_pipeline
from data_pipeline import *
from data_pipeline import DataPipeline, DataPipelineError, ExchangeError, DatabaseError, logger
from data_pipeline import MAX_RETRIES, RETRY_DELAY, EXCHANGE_ID, EXCHANGE_API_KEY, EXCHANGE_SECRET
from data_pipeline import INFLUXDB_URL, INFLUXDB_TOKEN, INFLUXDB_ORG, INFLUXDB_BUCKET
from logger import configure_logger, logs_dir
assert (MAX_RETRIES, RETRY_DELAY, EXCHANGE_ID) == (3, 5, "binance"), (MAX_RETRIES, RETRY_DELAY)
assert issubclass(ExchangeError, DataPipelineError) and issubclass(DatabaseError, DataPipelineError)
assert logger.name == "data_pipeline" and isinstance(configure_logger("x"), logging.Logger)
pipeline = DataPipeline(exchange_id="binance")
assert isinstance(pipeline.exchange, ccxt.binance)
rows = pipeline.fetch_ohlcv("BTC/USDT")
assert isinstance(rows, list) and isinstance(rows[0], list) and len(rows[0]) == 6 and isinstance(rows[0][0], int)
rows = pipeline.fetch_ohlcv("BTC/USDT", "1h", rows[-3][0], 1000, 0)
assert len(rows) == 3
rows = pipeline.fetch_ohlcv(symbol="BTC/USDT", timeframe="1d", since=None, limit=5, retry_count=0)
assert len(rows) == 5
assert isinstance(pipeline.influx_client, influxdb_client.InfluxDBClient)
point = influxdb_client.Point("mine").field("x", 1.0)
pipeline.write_api.write(bucket=INFLUXDB_BUCKET, record=point)
tables = pipeline.influx_client.query_api().query(f'from(bucket: "{INFLUXDB_BUCKET}") |> range(start: -1h)')
assert [r.get_value() for t in tables for r in t.records if r.get_measurement() == "mine"] == [1.0]
for wrong, kind in ((lambda: DataPipeline("no-such-exchange"), ExchangeError), (lambda: DataPipeline("nosuch"), ExchangeError),
                    (lambda: pipeline.fetch_ohlcv("NO/SUCH"), ExchangeError)):
    try:
        wrong()
    except kind as error:
        print(type(error).__name__, error)
    else:
        raise AssertionError(wrong)
pipeline.close()
pipeline.close()
print("all names")
"""


def test_every_name_of_the_original_is_there(environment: dict[str, str], tmp_path: Path) -> None:
    """Modules, constants, errors, arguments by place and by name, and the attributes exchange, influx_client, write_api."""
    done = python(
        "-X", "dev", "-W", "error::ResourceWarning:chandlery", "-c", NAMES, cwd=tmp_path, env=environment
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all names"
    assert "Invalid exchange ID: nosuch" in done.stdout


def test_points_are_those_of_the_schema(bucket: Bucket, environment: dict[str, str], tmp_path: Path) -> None:
    """Each point has the measurement, the three tags and the five float fields of the schema, at its open time, and
    nothing else; the schema's own example line is one of them.
    """
    script = "\nwith DataPipeline() as p: print(bool(p.fetch_and_store('BTC/USDT', '1h', '1d')))\n"
    assert told(script, environment, tmp_path) == ["True"]
    example = "ohlcv,symbol=BTC_USDT,timeframe=1h,exchange=binance open=50000.0,high=51000.0,low=49500.0,close=50500.0,volume=1250.5 1620000000000000000"
    assert bucket.server.write(example, bucket.name, precision="ns").status == 204
    rows = bucket.server.rows(
        f'from(bucket: "{bucket.name}") |> range(start: 0) |> filter(fn: (r) => r._measurement == "ohlcv")'
    )
    columns = {"result", "table", "_start", "_stop", "_time", "_value", "_field", "_measurement"}
    assert {frozenset(row) for row in rows} == {frozenset(columns | {"symbol", "timeframe", "exchange"})}
    assert {row["_field"] for row in rows} == {"open", "high", "low", "close", "volume"}
    assert {(row["symbol"], row["timeframe"], row["exchange"]) for row in rows} == {
        ("BTC_USDT", "1h", "binance")
    }
    shown = "\nimport chandlery as ch\nwith ch.open_store('influxdb') as s: print(*s.read(ch.SeriesId('binance', 'BTC/USDT', '1h'), 1620000000000, 1620000000001).row(0)[1:])\n"
    assert told(shown, environment, tmp_path) == ["50000.0", "51000.0", "49500.0", "50500.0", "1250.5"]


def test_the_text_of_the_original_is_the_originals() -> None:
    """The file that these tests run is the original script, unchanged: its first lines, its size, what it asks for."""
    text = ORIGINAL.read_text()

    assert text.startswith(
        '#!/usr/bin/env python3\n"""\nTest script for data pipeline with historical data load'
    )
    assert "chandlery" not in text
    assert "start_date = datetime.now() - timedelta(days=7)" in text
    assert 'if __name__ == "__main__":\n    main()\n' in text
