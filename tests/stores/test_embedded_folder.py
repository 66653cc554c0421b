"""What lies in an embedded store's folder, who may read it, and what is refused."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import apsw
import polars as pl
import pytest

from chandlery.candle import SeriesId
from chandlery.errors import (
    NoSuchSeries,
    NoSuchStore,
    StoreCorrupt,
    StoreUnreadable,
    UsageError,
)
from chandlery.stores import open_store
from chandlery.stores.embedded import EmbeddedStore
from chandlery.stores.embedded_partitions import folder_of
from chandlery.testing.store_scenes import (
    OTHER,
    SERIES,
    START,
    ask,
    bits,
    candles,
    hours,
    page,
    picture,
)
from chandlery.timeframe import DAY, HOUR

HOSTILE = (
    "../../x", "..", ".", "/etc/passwd", "CON", "a.", "BTC/USDT", "btc/usdt", "Btc/Usdt", "BTC_USDT", "BTC%2FUSDT",
    "x\ny", "\0", "é", "e\u0301", "~", "A" * 300, "A" * 299 + "B", "a" * 300, "BTC/USDT:USDT", " ", "symbol=X", "💰",
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    """An empty store."""
    opened = open_store(tmp_path / "place" / "candles")
    assert isinstance(opened, EmbeddedStore)
    return opened


def test_hostile_symbols_neither_escape_nor_collide(store: EmbeddedStore, tmp_path: Path) -> None:
    """Symbols made to break paths are each kept and read back, in folders that differ even where case is folded."""
    named = [SeriesId("binance", symbol, timeframe) for symbol in HOSTILE for timeframe in ("1m", "1M")]
    for number, series in enumerate(named):
        frame = candles([0], seed=number).with_columns(time=pl.lit(START).cast(pl.Datetime("ms", "UTC")))
        entry = page(0, 1, series=series)
        store.write([type(entry)(type(entry.page)(series, hours(0, 1), frame, "test", entry.page.at))])
    assert store.seal(everything=True) == len(named)
    for number, series in enumerate(named):
        assert bits(store.candles(series)) == bits(candles([0], seed=number)), series
        assert store.check(series) == []
    files = list(tmp_path.rglob("*.parquet"))
    assert len({str(path).lower() for path in files}) == len(named)
    assert all(path.resolve().is_relative_to(store.folder) for path in files)
    assert all(len(part) < 256 for path in files for part in path.parts)
    assert {pl.read_parquet_metadata(path)["chandlery.symbol"] for path in files} == set(HOSTILE)
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["candles"]


def test_names_of_usual_series_are_readable() -> None:
    """The usual series lie where the documentation says, and 1M is not 1m."""
    assert folder_of(SERIES) == "exchange=binance/kind=trade/symbol=BTC%2FUSDT/timeframe=1h"
    assert folder_of(SeriesId("okx", "BTC/USDT:USDT", "1M", "mark")).endswith("/timeframe=1mo")
    for bad in (SeriesId("", "X", "1h"), SeriesId("a", "", "1h"), SeriesId("a", "\ud800", "1h")):
        with pytest.raises(UsageError):
            folder_of(bad)


def test_series_that_would_share_a_folder_are_refused(store: EmbeddedStore) -> None:
    """A series whose files would lie among another's is refused with the names of both."""
    store.write([page(0, 3)])
    store.close()
    catalogue = apsw.Connection(str(store.folder / "catalogue.sqlite"))
    catalogue.execute("UPDATE series SET path = ?", (folder_of(OTHER).lower(),))
    catalogue.close()
    with open_store(store.url) as again, pytest.raises(UsageError, match=r"ETH/USDT .* beside .*BTC/USDT"):
        again.write([page(0, 3, series=OTHER)])


@pytest.mark.parametrize(
    ("timeframe", "names"),
    [
        ("1m", ["2024-01", "2024-02"]), ("3m", ["2024-01", "2024-02"]), ("5m", ["2024-Q1"]), ("30m", ["2024-Q1"]),
        ("1h", ["2024"]), ("12h", ["2024"]), ("1d", ["all"]), ("1w", ["all"]), ("1M", ["all"]),
    ],
)  # fmt: skip
def test_partitions_are_by_timeframe(store: EmbeddedStore, timeframe: str, names: list[str]) -> None:
    """A page over a month's end lies in the files that its timeframe asks for, and nothing else has that suffix."""
    series = SeriesId("binance", "BTC/USDT", timeframe)
    span = hours(0, 40 * 24)
    opens = series.frame.opens(span.since, span.until)
    frame = pl.DataFrame({"time": opens, **dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)})
    frame = frame.with_columns(pl.col("time").cast(pl.Datetime("ms", "UTC")))
    entry = page(0, 1, series=series)
    store.write([type(entry)(type(entry.page)(series, span, frame, "test", entry.page.at))])
    store.seal(everything=True)
    assert sorted(path.stem for path in store.folder.rglob("*.parquet")) == names
    assert store.opens(series).tolist() == opens.tolist()


def test_seal_without_all_leaves_unfinished_partitions(store: EmbeddedStore) -> None:
    """Only a partition whose end is answered and of which nothing asked is open is sealed; the rest stays staged."""
    store.write([ask(0, 9000), page(0, 8784)])  # all of 2024
    assert store.seal() == 1
    store.write([page(8784, 9000)])
    assert store.seal() == 0
    assert [path.name for path in store.folder.rglob("*.parquet")] == ["2024.parquet"]
    assert store.candles(SERIES).height == 9000


def test_sealed_files_are_plain_parquet(store: EmbeddedStore) -> None:
    """polars, pandas and DuckDB read all candles by a glob, with the six columns and nothing else."""
    import duckdb
    import pandas as pd

    store.write([ask(0, 20000), page(0, 20000)])
    store.seal(everything=True)
    glob = f"{store.folder}/exchange=binance/**/timeframe=1h/*.parquet"
    wanted = candles(list(range(20000)))
    assert bits(pl.read_parquet(glob, hive_partitioning=False).sort("time")) == bits(wanted)
    files = sorted(store.folder.rglob("*.parquet"))
    assert len(files) == 3
    whole = pd.concat([pd.read_parquet(file, partitioning=None) for file in files])
    assert whole.columns.tolist() == wanted.columns
    assert str(whole["time"].dtype) == "datetime64[ms, UTC]"
    assert whole["close"].tolist() == wanted["close"].to_list()
    rows = duckdb.sql(
        f"SELECT count(*), min(epoch_ms(time)), max(epoch_ms(time)), sum(volume) FROM read_parquet('{glob}', hive_partitioning=false)"
    ).fetchall()
    assert rows[0][:3] == (20000, START, START + 19999 * HOUR)
    assert rows[0][3] == pytest.approx(wanted["volume"].sum())


def test_revised_partition_keeps_its_name(store: EmbeddedStore) -> None:
    """A glob never sees a partition twice: sealing revised candles replaces the file under its name."""
    store.write([ask(0, 9000), page(0, 9000)])
    store.seal(everything=True)
    before = sorted(store.folder.rglob("*.parquet"))
    store.write([page(100, 200, seed=4)])
    assert store.seal(everything=True) == 1
    assert sorted(store.folder.rglob("*.parquet")) == before
    assert bits(pl.read_parquet(before[0]))[100:200] == bits(candles(list(range(100, 200)), seed=4))


def test_live_candles_are_gathered(store: EmbeddedStore) -> None:
    """A thousand pages of one candle leave a few staged blocks, one answered range, and all candles."""
    for n in range(1000):
        store.write([page(n, n + 1, at=START + (n + 1) * HOUR + 5)])
    with store._catalogue.reading() as db:
        assert db.execute("SELECT count(*) FROM staged").get < 300
    assert len(store.ledger(SERIES).answered) == 1
    assert bits(store.candles(SERIES)) == bits(candles(list(range(1000))))


# -- what is damaged ------------------------------------------------------------------------------------------------


def test_damaged_file_is_found_told_and_fetched_again(store: EmbeddedStore, seed: int) -> None:
    """A flipped bit is never read as a candle; check says what is lost, forget sets it aside, a new page heals it."""
    store.write([ask(0, 20000, clock=START + 1000 * DAY), page(0, 20000)])
    store.seal(everything=True)
    file = next(store.folder.rglob("2025.parquet"))
    damaged = bytearray(file.read_bytes())
    dice = random.Random(seed)
    damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
    file.write_bytes(damaged)
    with pytest.raises(StoreCorrupt, match=r"2025\.parquet"):
        store.candles(SERIES)
    assert store.candles(SERIES, hours(0, 8784)).height == 8784
    (problem,) = store.check(SERIES)
    assert (problem.kind, problem.candles, problem.range) == ("lost", 8760, hours(8784, 17544))
    with store.lock(SERIES):
        store.forget(SERIES, problem.range)
    assert store.check(SERIES) == []
    assert store.candles(SERIES).height == 20000 - 8760
    assert (store.series()[0].absent, store.series()[0].missing) == (0, 8760)
    assert [path.name for path in store.folder.rglob("*damaged*")] == ["2025.parquet.damaged"]
    assert store.write([page(8784, 17544, repair=True)])[0].new == 8760
    store.seal(everything=True)
    assert bits(store.candles(SERIES)) == bits(candles(list(range(20000))))


@pytest.mark.parametrize("how", ["removed", "cut"])
def test_missing_or_cut_file_is_corrupt(store: EmbeddedStore, how: str) -> None:
    """A sealed file that is gone or cut short is an error, for every question that needs it, and never fewer candles."""
    store.write([ask(0, 9000), page(0, 9000)])
    store.seal(everything=True)
    file = next(store.folder.rglob("2024.parquet"))
    if how == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-5])
    for question in (store.candles, store.opens, lambda s: store.write([page(0, 9000, series=s)])):
        with pytest.raises(StoreCorrupt):
            question(SERIES)
    assert store.remove(SERIES) == 9000


def test_damaged_staged_block_is_found(store: EmbeddedStore) -> None:
    """Staged candles carry a checksum: a flipped bit in the catalogue is told, not read."""
    store.write([ask(0, 100), page(0, 100)])
    store.close()
    catalogue = apsw.Connection(str(store.folder / "catalogue.sqlite"))
    ((number, blob),) = catalogue.execute("SELECT id, data FROM staged").fetchall()
    catalogue.execute(
        "UPDATE staged SET data = ? WHERE id = ?", (blob[:9] + bytes([blob[9] ^ 4]) + blob[10:], number)
    )
    catalogue.close()
    with open_store(store.url) as again:
        with pytest.raises(StoreCorrupt):
            again.candles(SERIES)
        assert [p.candles for p in again.check(SERIES)] == [100]
        again.forget(SERIES, hours(0, 100))
        assert again.write([page(0, 100)])[0].new == 100
        assert bits(again.candles(SERIES)) == bits(candles(list(range(100))))


# -- what is not a store --------------------------------------------------------------------------------------------


def test_opening_writes_nothing(tmp_path: Path) -> None:
    """Opening and asking makes no folder; without `create` a missing store is an error of usage."""
    place = tmp_path / "none"
    with open_store(place) as store:
        assert store.series() == []
        assert list(store.journal()) == []
        assert store.seal(everything=True) == 0
        with pytest.raises(NoSuchSeries):
            store.candles(SERIES)
        with pytest.raises(NoSuchSeries):
            store.remove(SERIES)
    assert not place.exists()
    for empty in (place, tmp_path):
        with pytest.raises(NoSuchStore) as error:
            open_store(empty, create=False)
        assert isinstance(error.value, UsageError)
        assert error.value.hint
    assert not any(tmp_path.iterdir())


def test_what_is_not_a_store_is_refused(tmp_path: Path) -> None:
    """A file, a folder of other things, another program's database and a newer store are refused and left alone."""
    file = tmp_path / "file"
    file.write_text("x")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.doc").write_text("x")
    text = tmp_path / "text"
    text.mkdir()
    (text / "catalogue.sqlite").write_text("not a database, but long enough to be looked at as one" * 99)
    other = tmp_path / "other"
    other.mkdir()
    database = apsw.Connection(str(other / "catalogue.sqlite"))
    database.execute("CREATE TABLE t (a)")
    database.close()
    newer = tmp_path / "newer"
    with open_store(newer) as store:
        store.write([page(0, 1)])
    database = apsw.Connection(str(newer / "catalogue.sqlite"))
    database.execute("PRAGMA user_version = 99")
    database.close()
    for place, words in (
        (file, "is a file"),
        (foreign, "thesis"),
        (text, "not an SQLite"),
        (other, "another"),
        (newer, "newer"),
    ):
        with pytest.raises(StoreUnreadable, match=words) as error:
            open_store(place)
        assert error.value.hint
    assert [path.name for path in foreign.iterdir()] == ["thesis.doc"]
    for url in ("influxdb://h:1/o/b", "influxdb", "s3://bucket/x", "", "file:", "file://host/x"):
        with pytest.raises(UsageError) as refused:
            open_store(url)
        assert refused.value.hint


def test_urls_of_one_folder(tmp_path: Path) -> None:
    """A path and its file: forms open one store, whose url is absolute, in a folder of its owner alone."""
    with open_store(f"file:{tmp_path}/a") as store:
        store.write([page(0, 2)])
        assert store.url == str(tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    for url in (tmp_path / "a", f"{tmp_path}/a", f"file://{tmp_path}/a", f"file:{tmp_path}/a"):
        with open_store(url, create=False) as store:
            assert store.candles(SERIES).height == 2


# -- rights and space -----------------------------------------------------------------------------------------------

READER = """
import ctypes, os, sys
if os.getuid() == 0:  # root without its capabilities obeys the rights of files
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, nothing) == 0
assert not os.access(sys.argv[1], os.W_OK)
from chandlery.errors import StoreUnreadable
from chandlery.stores import open_store
from chandlery.testing.store_scenes import SERIES, page
store = open_store(sys.argv[1], create=False)
(summary,) = store.series()
assert store.check(SERIES) == []
print(summary.candles, store.candles(SERIES).height, len(store.opens(SERIES)), len(list(store.journal())),
      store.ledger(SERIES).answered_ranges.until)
for use in (lambda: store.write([page(0, 1, seed=9)]), lambda: store.lock(SERIES).__enter__()):
    try:
        use()
    except StoreUnreadable as error:
        assert error.hint
    else:
        raise AssertionError("written without rights")
"""


@pytest.mark.parametrize("state", ["closed", "in use", "killed"])
def test_folder_without_write_rights_is_read(tmp_path: Path, state: str) -> None:
    """A user who may only read gets everything, whether the store was closed, is open, or its writer was killed."""
    place = tmp_path / "candles"
    store = open_store(place)
    store.write([ask(0, 9000), page(0, 8800)])
    store.seal()
    store.write([page(8800, 9000)])
    if state == "killed":  # what a killed writer leaves: a log that was not taken over
        shutil.copytree(place, tmp_path / "copy", ignore=shutil.ignore_patterns("*-shm"))
        place = tmp_path / "copy"
    if state != "in use":
        store.close()
    try:
        for path in [place, *place.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        read = subprocess.run(
            [sys.executable, "-c", READER, str(place)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert read.stdout.split() == ["9000", "9000", "9000", "3", str(START + 9000 * HOUR)], read.stderr
        assert read.returncode == 0, read.stderr
    finally:
        for path in [place, *place.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        store.close()


FILLER = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
from chandlery.errors import StoreFull
from chandlery.stores import open_store
from chandlery.testing.store_scenes import SERIES, ask, page
store = open_store(sys.argv[1])
store.write([ask(0, 90000)])
try:
    for n in range(0, 90000, 500):
        store.write([page(n, n + 500)])
        print(n + 500, flush=True)
except StoreFull as error:
    assert error.hint
    print("full", store.candles(SERIES).height, len(store.check(SERIES)), flush=True)
"""


def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    """When no space is left the write is refused as StoreFull, what was stored is readable, and with space it goes on."""
    assert (
        resource.RLIMIT_FSIZE
    )  # a limit on the size of files is met as a full disk is: the write falls short
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", FILLER, str(tmp_path / "c")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = run.stdout.splitlines()
    assert lines[-1].startswith("full"), run.stderr
    stored = int(lines[-2])
    assert lines[-1] == f"full {stored} 0"
    with open_store(tmp_path / "c") as store:
        assert bits(store.candles(SERIES)) == bits(candles(list(range(stored))))
        assert store.write([page(stored, stored + 500)])[0].new == 500


def test_link_out_of_the_store_is_not_followed(store: EmbeddedStore, tmp_path: Path) -> None:
    """A folder of the store that is a link is not written through, and a file that is one is not read."""
    store.write([ask(0, 9000), page(0, 9000)])
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.folder / "exchange=binance").symlink_to(outside)
    with pytest.raises(StoreUnreadable, match="link"):
        store.seal(everything=True)
    assert not any(outside.iterdir())
    assert store.candles(SERIES).height == 9000
    (store.folder / "exchange=binance").unlink()
    assert store.seal(everything=True) == 2
    assert picture(store)
