"""Exports into files: the format of a name, whole files or none, targets without room, and memory that does not grow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import chandlery.export
from chandlery.errors import NoSuchSeries, StoreFull, UsageError
from chandlery.export import export_file, format_of

from .exporting import BTC, ETH, exported, plain_store


def names_in(folder: Path) -> list[str]:
    """The names of what a folder holds, sorted."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("path", "asked", "expected"),
    [
        (None, None, "csv"),
        ("x.csv", None, "csv"),
        ("x.PARQUET", None, "parquet"),
        ("x.jsonl", None, "jsonl"),
        ("x.ndjson", "jsonl", "jsonl"),
        ("x", None, "csv"),
        ("x.dat", "parquet", "parquet"),
    ],
)
def test_the_format_comes_from_the_ending(path: str | None, asked: str | None, expected: str) -> None:
    """Without --format the file's ending says it; an ending that says nothing needs --format."""
    assert format_of(None if path is None else Path(path), asked) == expected


@pytest.mark.parametrize(
    ("path", "asked", "named"),
    [
        ("x.csv", "parquet", "x.csv"),
        ("x.jsonl", "csv", "x.jsonl"),
        ("x.xlsx", None, "x.xlsx"),
        (None, "feather", "feather"),
    ],
)
def test_a_format_that_cannot_be_is_refused(path: str | None, asked: str | None, named: str) -> None:
    """A contradiction, an unknown ending and an unknown format are usage errors that name it."""
    with pytest.raises(UsageError, match=named) as caught:
        format_of(None if path is None else Path(path), asked)

    assert caught.value.hint


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    """A failing export leaves the file that was there, with its content, and nothing beside it."""
    target = tmp_path / "x.csv"
    target.write_text("before")
    store = plain_store(BTC)

    with pytest.raises(NoSuchSeries):
        export_file(store, [BTC, ETH], target)
    assert target.read_text() == "before"

    with pytest.raises(RuntimeError, match="halfway"), chandlery.export.whole_file(target) as out:
        raise RuntimeError(f"halfway after {out.write(b'half')} bytes")
    assert target.read_text() == "before"
    assert names_in(tmp_path) == ["x.csv"]

    assert export_file(store, [BTC], target) == 3
    assert target.read_bytes() == exported(store, [BTC])
    assert names_in(tmp_path) == ["x.csv"]


def test_a_link_and_its_rights_stay(tmp_path: Path) -> None:
    """An export to a symbolic link replaces what it points to and keeps that file's rights."""
    real = tmp_path / "real.csv"
    real.write_text("before")
    real.chmod(0o640)
    link = tmp_path / "link.csv"
    link.symlink_to(real)

    export_file(plain_store(BTC), [BTC], link)

    assert link.is_symlink()
    assert real.read_text().startswith("timestamp,")
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("name", "named"), [("no/such/x.csv", "no such folder"), (".", "a folder, not a file")]
)
def test_a_target_that_cannot_be_is_refused(tmp_path: Path, name: str, named: str) -> None:
    """A missing folder and a folder as target are usage errors; nothing is made."""
    with pytest.raises(UsageError, match=named):
        export_file(plain_store(BTC), [BTC], tmp_path / name, "csv")

    assert names_in(tmp_path) == []


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from exporting import BTC, MemoryStore, keep
from chandlery.errors import StoreFull
from chandlery.export import export_file
store = MemoryStore()
keep(store, BTC, {{n: (n + 0.123456, 1e9 / (n + 1), 0.1, n / 7, n * 1.1) for n in range(20_000)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    export_file(store, [BTC], Path({target!r}))
except StoreFull as error:
    print("full:", error)
"""


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_no_room_leaves_nothing(tmp_path: Path, ending: str) -> None:
    """Where the file cannot grow the export raises StoreFull, the old file stays and no part of a new one is left."""
    target = tmp_path / f"x.{ending}"
    target.write_text("before")
    script = LIMITED.format(here=str(Path(__file__).parent), target=str(target))

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert f"full: no space left for {target}" in done.stdout, done.stderr
    assert names_in(tmp_path) == [target.name]
    assert target.read_text() == "before"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("fmt", ["csv", "jsonl", "parquet"])
def test_a_full_device_is_a_full_store(fmt: str) -> None:
    """Writing to a device without room raises StoreFull, and the device is still there."""
    with pytest.raises(StoreFull, match="/dev/full"):
        export_file(plain_store(BTC), [BTC], "/dev/full", fmt)  # type: ignore[arg-type]

    assert Path("/dev/full").is_char_device()


GENERATED = """
import numpy as np, polars as pl
from pathlib import Path
from chandlery.candle import SCHEMA, SeriesId
from chandlery.export import export_file
from chandlery.stores.memory import MemoryStore
from chandlery.stores.base import Ask, Page
from chandlery.candle import CandlePage
from chandlery.timerange import TimeRange

class Endless(MemoryStore):
    '''A memory store whose candles are worked out when they are read, so that it holds none itself.'''
    def candles(self, series, span=None):
        opens = series.frame.opens(span.since, span.until)
        price = np.round(np.random.default_rng(span.since).random(len(opens)) * 1e5, 2)
        return pl.DataFrame({{"time": pl.Series(opens).cast(SCHEMA["time"]), **{{n: price for n in SCHEMA.names()[1:]}}}})

rows = {rows}
series = SeriesId("binance", "BTC/USDT", "1m")
store, span = Endless(), TimeRange(0, rows * 60_000)
page = CandlePage(series, span, Endless().candles(series, TimeRange(0, 0)), "test", span.until)
store.write([Ask(series, span, span.until, 0), Page(page)])
written = export_file(store, [series], Path({target!r}))
# Not ru_maxrss: over fork and exec it keeps the peak of the process that started this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(written, int(peak.split()[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak memory of a program")
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_history(tmp_path: Path, proven_count, ending: str) -> None:  # type: ignore[no-untyped-def]
    """Exporting ten million candles (a tenth of that outside `make prove`) peaks below 300 MB."""
    rows = proven_count(10_000_000)
    target = tmp_path / f"x.{ending}"
    script = GENERATED.format(rows=rows, target=str(target))

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=False
    )

    assert done.returncode == 0, done.stderr
    written, peak = map(int, done.stdout.split())
    assert written == rows
    assert peak < 300
    if ending == "parquet":
        assert (
            pl.scan_parquet(target)
            .select(pl.col("time").diff().min() == pl.duration(minutes=1))
            .collect()
            .item()
        )
