"""What lies in an embedded store's folder, and what it is called."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import apsw
import polars as pl
import pytest

from chandlery.candle import SeriesId
from chandlery.errors import (
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
from chandlery.timeframe import HOUR

HOSTILE = (
    "../../x", "..", ".", "/etc/passwd", "CON", "a.", "BTC/USDT", "btc/usdt", "Btc/Usdt", "BTC_USDT", "BTC%2FUSDT",
    "x\ny", "\0", "é", "e\u0301", "~", "A" * 300, "A" * 299 + "B", "a" * 300, "BTC/USDT:USDT", " ", "symbol=X", "💰",
)  # fmt: skip


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
    query = (
        "SELECT count(*), min(epoch_ms(time)), max(epoch_ms(time)), sum(volume) "
        f"FROM read_parquet('{glob}', hive_partitioning=false)"
    )
    # In a process of its own: DuckDB's binding reports leaks of its own at the end of the one that it is used in.
    program = "import sys, json, duckdb; print(json.dumps(duckdb.sql(sys.argv[1]).fetchall()))"
    found = subprocess.run([sys.executable, "-c", program, query], check=True, capture_output=True, text=True)
    rows = json.loads(found.stdout)
    assert rows[0][:3] == [20000, START, START + 19999 * HOUR]
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


def test_trash_of_a_series_that_came_back(store: EmbeddedStore) -> None:
    """What a killed remove left is deleted by whoever writes next, but not the new file that another is about to seal."""
    store.write([ask(0, 100), page(0, 100)])
    store.seal(everything=True)
    (file,) = store.folder.rglob("*.parquet")
    data = file.read_bytes()
    store.remove(SERIES)
    store.write([page(0, 5)])
    file.parent.mkdir(parents=True)  # as if the remover had died before it deleted anything
    file.write_bytes(data)
    catalogue = apsw.Connection(str(store.folder / "catalogue.sqlite"))
    catalogue.execute("INSERT INTO trash VALUES (?)", (str(file.relative_to(store.folder)),))
    catalogue.close()
    being_sealed = file.with_name(".2024.parquet.tmp")
    being_sealed.touch()
    assert file.exists()
    with open_store(store.url) as other:
        other.write([page(0, 5, series=OTHER)])
    assert not file.exists()
    assert being_sealed.exists()
    assert store.seal(SERIES, everything=True) == 1
    assert bits(store.candles(SERIES)) == bits(candles(list(range(5))))


def test_a_store_of_version_2_is_read_and_brought_up(tmp_path: Path) -> None:
    """Without identity and marks it is read as it is; the first writer adds both and everything else stays."""
    with open_store(tmp_path / "old") as store:
        store.write([ask(0, 20), page(0, 15), page(3, 6, seed=1)])
        store.seal(everything=True)
        store.write([page(15, 20)])
        before = picture(store)
    catalogue = tmp_path / "old" / "catalogue.sqlite"
    database = apsw.Connection(str(catalogue))
    for statement in ("DROP TABLE about", "DROP TABLE marks", "PRAGMA user_version = 2"):
        database.execute(statement)
    database.close()

    with open_store(tmp_path / "old", create=False) as store:
        assert (picture(store), store.mark("any")) == (before, 0)
        assert apsw.Connection(str(catalogue)).execute("PRAGMA user_version").get == 2
        name = store.identity
        assert picture(store) == before
        store.set_mark("any", 9)
    with open_store(tmp_path / "old", create=False) as store:
        assert (picture(store), store.identity, store.mark("any")) == (before, name, 9)
        assert store.write([page(20, 25)])[0].new == 5
    assert len(name) == 32
    assert apsw.Connection(str(catalogue)).execute("PRAGMA user_version").get == 4
