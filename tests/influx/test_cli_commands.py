"""Every command on an InfluxDB store says and gives what it does on an embedded one that was fed the same."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange

from .commands import CLOCK, Done, chandlery
from .fixtures import Bucket
from .influx_server import InfluxServer

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FETCHED = ("fetch", "BTC/USDT", "ETH/USDT", "-t", "1h", "-t", "1d", "--since", "2023-03-01")


@dataclass(frozen=True)
class Pair:
    """An embedded store and an InfluxDB one that hold the same."""

    folder: Path
    bucket: Bucket
    exchange: LocalExchange
    fetched: tuple[Done, Done]

    def both(self, *words: str) -> tuple[Done, Done]:
        """The command on the one and on the other."""
        return chandlery(*words, "--store", self.folder), chandlery(*words, "--store", self.bucket.url)


@pytest.fixture(scope="module")
def pair(influxd: InfluxServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both stores, fed by one local exchange whose clock stands still and which has holes of its own."""
    place = tmp_path_factory.mktemp("pair")
    bucket = Bucket(influxd, influxd.new_bucket())
    with (
        LocalExchange(ExchangeSettings(clock=f"{CLOCK},0")) as exchange,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        monkeypatch.chdir(place)
        monkeypatch.setenv("EXCHANGE_URL", exchange.url)
        monkeypatch.setenv("INFLUXDB_TOKEN", influxd.token)
        monkeypatch.setenv("CHANDLERY_STATE", str(place / "state"))
        fetched = chandlery(*FETCHED, "--store", "here"), chandlery(*FETCHED, "--store", bucket.url)
        yield Pair(place / "here", bucket, exchange, fetched)


@pytest.fixture(autouse=True)
def _settings(
    influxd: InfluxServer, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFLUXDB_TOKEN", influxd.token)
    monkeypatch.setenv("EXCHANGE_URL", pair.exchange.url)
    return


def test_fetch_reports_the_same(pair: Pair) -> None:
    """`fetch` prints the same table, ends with 0, and names the store on stderr without the token."""
    one, other = pair.fetched

    assert (one.code, other.code) == (0, 0), other.err
    assert other.out == one.out
    assert "complete" in other.out
    assert f"store: {pair.bucket.url}\n" in other.err
    assert pair.bucket.token not in other.out + other.err
    assert "INFLUXDB_TOKEN is set and not used" in one.err
    assert "INFLUXDB_TOKEN" not in other.err


READS = [
    "show BTC/USDT",
    "show BTC/USDT -n 1",
    "show ETH/USDT -t 1d --last 20d --json",
    "show BTC/USDT --since 2024-05-31 --fill flat",
    "show BTC/USDT --since 2023-02-01 --until 2023-02-02",
    "latest BTC/USDT",
    "latest ETH/USDT -t 1d --json",
    "export BTC/USDT",
    "export BTC/USDT ETH/USDT -t 1h -t 1d --format jsonl",
    "export */USDT --last 10d --format csv",
    "verify",
    "verify --json",
    "verify BTC/USDT -t 1h --since 2023-03-01 --gaps 5",
    "verify BTC/USDT -t 1h --since 2023-02-28 --json",
    "plan BTC/USDT --json",
    "plan BTC/USDT --since 2023-02-01",
    "chart BTC/USDT",
    "chart ETH/USDT -t 1d --last 30d",
    "list",
]
NOT_THERE = [
    "show BTC/USDT -t 4h",
    "latest DOGE/USDT",
    "export NONE/USDT",
    "verify NONE/USDT",
    "chart XRP/USDT",
    "remove NONE/USDT --yes",
]


@pytest.mark.parametrize("words", READS)
def test_reading_gives_the_same(pair: Pair, words: str) -> None:
    """stdout, exit code and talk are those of the embedded store, byte for byte."""
    one, other = pair.both(*words.split())

    assert other.out == one.out
    assert other.code == one.code
    talk = [line for line in one.err.splitlines() if "INFLUXDB_TOKEN" not in line]
    assert other.err.splitlines() == talk
    assert one.out


@pytest.mark.parametrize("words", NOT_THERE)
def test_a_series_that_is_not_kept_is_told_alike(pair: Pair, words: str) -> None:
    """A series that is not there gives exit code 2 and the same hint, and names the bucket in place of the folder."""
    one, other = pair.both(*words.split())

    assert (one.code, other.code) == (2, 2)
    assert other.out == one.out == ""
    talk = [line for line in one.err.splitlines() if "INFLUXDB_TOKEN" not in line]
    assert other.err.splitlines() == [line.replace(str(pair.folder), pair.bucket.url) for line in talk]


def test_lists_differ_in_the_name_of_the_store_alone(pair: Pair) -> None:
    """`list --json` is equal but for `store`, which is the complete URL."""
    one, other = pair.both("list", "--json")

    assert other.json["store"] == pair.bucket.url
    assert other.json["series"] == one.json["series"]
    assert [s["candles"] > 0 for s in other.json["series"]] == [True] * 4


def test_repair_and_top_up_do_the_same(pair: Pair) -> None:
    """`verify --repair` of a time before the first ask, and a fetch of all that is kept, bring and say the same."""
    for words in (
        ("verify", "ETH/USDT", "-t", "1d", "--since", "2023-02-20", "--repair", "--json"),
        ("fetch", "--recheck", "0"),
        ("verify", "--repair"),
        ("list",),
    ):
        one, other = pair.both(*words)
        assert (one.code, other.code) == (0, 0), other.err
        assert other.out == one.out
        talk = [line for line in one.err.splitlines() if "INFLUXDB_TOKEN" not in line]
        assert other.err.splitlines() == [line.replace(str(pair.folder), pair.bucket.url) for line in talk]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "png"])
def test_files_are_the_same(pair: Pair, ending: str, tmp_path: Path) -> None:
    """An exported file and a drawn picture are equal byte for byte; Parquet has equal rows."""
    words = ("chart", "BTC/USDT") if ending == "png" else ("export", "BTC/USDT", "ETH/USDT")
    files = [tmp_path / f"{name}.{ending}" for name in ("one", "other")]
    for file, store in zip(files, (str(pair.folder), pair.bucket.url), strict=True):
        done = chandlery(*words, "-o", file, "--store", store)
        assert done.code == 0, done.err

    if ending == "parquet":
        one, other = map(pl.read_parquet, files)
        assert other.equals(one)
        assert one.height > 10_000
    else:
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(("words", "columns"), [("list", 80), ("verify", 80), ("verify", 120)])
def test_tables_fit_a_terminal(pair: Pair, columns: int, words: str) -> None:
    """At a terminal of 80 or 120 columns a table looks as it does for the embedded store, and no line is too long."""
    one, other = (
        _table(_at_terminal(columns, *words.split(), "--store", url))
        for url in (str(pair.folder), pair.bucket.url)
    )

    assert other == one
    assert all(len(line) + line.count("✅") <= columns for line in other)
    assert len(other) >= 5


def _table(screen: str) -> list[str]:
    """What is shown from the head of the table on."""
    lines = screen.splitlines()
    head = next(n for n, line in enumerate(lines) if line.lstrip().startswith(("binance", "time")))
    return [line for line in lines[head:] if line]


def _at_terminal(columns: int, *words: str) -> str:
    pid, leader = pty.fork()
    if not pid:
        os.environ.pop("COLUMNS", None)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execv(sys.executable, [sys.executable, "-m", "chandlery", *words])
    shown, deadline = b"", time.monotonic() + 30
    try:
        while time.monotonic() < deadline and select.select([leader], [], [], 30)[0]:
            shown += os.read(leader, 65536)
    except OSError:
        pass  # the other side has closed
    os.close(leader)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, shown
    return ESCAPES.sub("", shown.decode()).replace("\r\n", "\n")
