"""The original's three scripts: their names, their settings, and the load of six series with a line for each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from chandlery.exchange import ExchangeSettings, Fault, Faults, LocalExchange
from chandlery.timeframe import DAY

PROJECT = Path(__file__).resolve().parents[1]
SCRIPTS = PROJECT / "data-pipeline"
SERIES = [f"{symbol} {frame}" for symbol in ("BTC/USDT", "ETH/USDT") for frame in ("1h", "4h", "1d")]


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalExchange]:
    """A local exchange in EXCHANGE_URL, and a log folder that is not the checkout's."""
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:10Z")) as local:
        monkeypatch.setenv("EXCHANGE_URL", local.url)
        monkeypatch.setenv("CHANDLERY_LOGS", str(tmp_path / "logs"))
        yield local


def python(*args: str | os.PathLike[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the interpreter of these tests in a folder."""
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src"), **env},
    )


def lines_of(done: subprocess.CompletedProcess[str], marks: Sequence[str] = "✅❌") -> list[str]:
    """The lines of stdout that begin with one of the marks."""
    return [line for line in done.stdout.splitlines() if line[:1] in marks]


def test_the_script_loads_six_series_and_says_so(exchange: LocalExchange, tmp_path: Path) -> None:
    """Six lines with ✅, exit code 0, and the candles are in ./candles, where the package finds them."""
    done = python(SCRIPTS / "test_data_pipeline.py", cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert lines_of(done) == [f"✅ {series}" for series in SERIES]
    assert "Traceback" not in done.stderr
    count = (
        "import chandlery as ch; store = ch.open_store('candles')\n"
        "print(*(store.read(ch.SeriesId('binance', 'ETH/USDT', t)).height for t in ('1h', '4h', '1d')))"
    )
    week = exchange.now_ms() - 7 * DAY
    there = [exchange.truth("ETH/USDT", t, week, exchange.now_ms()).height for t in ("1h", "4h", "1d")]
    assert python("-c", count, cwd=tmp_path).stdout.split() == [str(number) for number in there]
    assert min(there) >= 6
    assert list((tmp_path / "logs").glob("error_*.log"))


def test_the_script_says_which_series_is_not_there(exchange: LocalExchange, tmp_path: Path) -> None:
    """An exchange that lost ETH/USDT gives three ❌ with a reason, three ✅ for the others, and exit code 1."""
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:10Z", symbols=("BTC/USDT",))) as half:
        done = python(SCRIPTS / "test_data_pipeline.py", cwd=tmp_path, EXCHANGE_URL=half.url)

    assert done.returncode == 1
    assert [line[0] for line in lines_of(done)] == list("✅✅✅❌❌❌")
    assert all("ETH/USDT" in line and ":" in line for line in lines_of(done, "❌"))


@pytest.mark.slow
def test_without_the_exchange_the_script_fails_six_times(tmp_path: Path) -> None:
    """Where nothing listens, no line says ✅, the exit code is 1, and no store is made."""
    done = python(
        SCRIPTS / "test_data_pipeline.py",
        cwd=tmp_path,
        EXCHANGE_URL="http://127.0.0.1:9",
        CHANDLERY_LOGS=str(tmp_path / "logs"),
    )

    assert done.returncode == 1
    assert lines_of(done, "✅") == []
    assert lines_of(done, "❌")
    assert not (tmp_path / "candles").exists()


VERIFY = """
import sys
from data_pipeline import DataPipeline
from test_data_pipeline import verify_data_in_influxdb as verify
with DataPipeline() as pipeline:
    report = pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-30", "2024-05-31")
    assert report, report
print(verify("BTC/USDT", "1h", "2024-05-30"), verify("BTC/USDT", "1h", "2024-05-29"), verify("BTC/USDT", "4h", "2024-05-30"))
with DataPipeline() as pipeline:
    assert pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-29")
print(verify("BTC/USDT", "1h", "2024-05-30"), verify("BTC/USDT", "1h", "2024-05-29"), verify("BTC/USDT", "1h", "2024-05-28"))
"""


def test_verify_is_true_only_for_what_was_loaded(exchange: LocalExchange, tmp_path: Path) -> None:
    """verify_data_in_influxdb is false for a range not loaded to its end, for an older start, and for another timeframe."""
    done = python("-c", VERIFY, cwd=tmp_path, PYTHONPATH=f"{SCRIPTS}{os.pathsep}{PROJECT / 'src'}")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["False False False", "True True False"]


NAMES = """
import data_pipeline, logger
from data_pipeline import DataPipeline, DataPipelineError, DatabaseError, ExchangeError
from logger import configure_logger
import chandlery
assert issubclass(ExchangeError, DataPipelineError) and issubclass(DatabaseError, DataPipelineError)
assert ExchangeError is chandlery.ExchangeError and issubclass(DataPipeline, chandlery.DataPipeline)
print(data_pipeline.EXCHANGE_ID, data_pipeline.EXCHANGE_API_KEY, data_pipeline.INFLUXDB_URL, data_pipeline.INFLUXDB_ORG)
print(data_pipeline.INFLUXDB_TOKEN, data_pipeline.MAX_RETRIES, data_pipeline.RETRY_DELAY)
print(configure_logger("mine").name, data_pipeline.logger.name)
"""


def test_names_and_settings_are_those_of_the_original(tmp_path: Path) -> None:
    """The modules have the original's names, and its settings come from secrets/.env.binance of the current folder."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / ".env.binance").write_text(
        "INFLUXDB_URL=http://db:8086\nINFLUXDB_ORG=desk\nINFLUXDB_TOKEN=t0k3n-of-influx\nEXCHANGE_API_KEY=k3y\n"
    )
    done = python(
        "-c",
        NAMES,
        cwd=tmp_path,
        PYTHONPATH=f"{SCRIPTS}{os.pathsep}{PROJECT / 'src'}",
        CHANDLERY_LOGS=str(tmp_path / "logs"),
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "binance k3y http://db:8086 desk",
        "t0k3n-of-influx 3 5.0",
        "mine data_pipeline",
    ]


def test_a_checkout_that_is_not_installed_runs_too(exchange: LocalExchange, tmp_path: Path) -> None:
    """Copied with src beside it and no chandlery on the path, data_pipeline finds the package and its log folder."""
    (tmp_path / "src").symlink_to(PROJECT / "src")
    scripts = tmp_path / "data-pipeline"
    scripts.mkdir()
    for name in ("data_pipeline.py", "logger.py"):
        (scripts / name).write_text((SCRIPTS / name).read_text())
    hide = (  # an installed chandlery must not answer for the checkout's
        "import sys; from importlib.machinery import PathFinder; find = PathFinder.find_spec\n"
        "class Hidden(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        here = [p for p in sys.path if p.startswith({str(tmp_path)!r})]\n"
        "        return find(name, here if name == 'chandlery' else path, target)\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'chandlery' not in getattr(f, '__name__', '')]\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Hidden\n"
    )
    code = (
        f"{hide}sys.path.insert(0, {str(scripts)!r})\n"
        "import data_pipeline, chandlery; print(chandlery.__file__)\n"
    )
    env = {"PYTHONPATH": "", "CHANDLERY_LOGS": ""}
    done = python("-c", code, cwd=tmp_path, **env)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "src" / "chandlery" / "__init__.py")
    assert list((scripts / "logs").glob("*.log"))


def test_pytest_does_not_take_the_script_for_a_test(tmp_path: Path) -> None:
    """Pointed at data-pipeline, pytest collects nothing and asks no exchange."""
    done = python(
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        SCRIPTS,
        cwd=tmp_path,
        CHANDLERY_LOGS=str(tmp_path / "logs"),
    )

    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout


def test_a_fault_on_the_way_is_survived(exchange: LocalExchange, tmp_path: Path) -> None:
    """With broken answers among the good ones the script still loads all six series."""
    exchange.faults = Faults(
        tuple(
            Fault(kind, path="klines", requests=(number,))
            for number, kind in ((1, "html"), (3, "5xx"), (5, "reset"))
        )
    )
    done = python(SCRIPTS / "test_data_pipeline.py", cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines_of(done, "✅")) == 6
