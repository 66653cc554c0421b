"""Folders that are no stores, that may not be written, or that have no space left."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from chandlery.errors import (
    NoSuchSeries,
    NoSuchStore,
    StoreUnreadable,
    UsageError,
)
from chandlery.stores import open_store
from chandlery.stores.embedded import EmbeddedStore
from chandlery.testing.store_scenes import (
    SERIES,
    START,
    ask,
    bits,
    candles,
    page,
    picture,
)
from chandlery.timeframe import HOUR


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
    for url in (
        "influxdb://h:1/o/b",
        "influxdb",
        "influxdb:",
        "influxdb://h/o",
        "s3://bucket/x",
        "",
        "file:",
        "file://host/x",
    ):
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


MAKER = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
from chandlery.errors import StoreFull
from chandlery.stores import open_store
from chandlery.testing.store_scenes import ask
try:
    open_store(sys.argv[1]).write([ask(0, 100)])
except StoreFull as error:
    assert error.hint
    sys.exit(9)
"""


@pytest.mark.parametrize("space", [600, 4096, 20_000, 40_000, 60_000])
def test_full_disk_while_the_store_is_made(tmp_path: Path, space: int) -> None:
    """A store that there is no space for is refused as StoreFull; what is left of it becomes the store once there is."""
    place = tmp_path / "c"
    run = subprocess.run(
        [sys.executable, "-c", MAKER, str(place), str(space)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 9, run.stderr
    with open_store(place) as store:
        assert store.series() == []
        assert store.write([ask(0, 100), page(0, 100)])[1].new == 100
        assert store.check(SERIES) == []
    with apsw.Connection(str(place / "catalogue.sqlite")) as catalogue:
        assert catalogue.pragma("auto_vacuum") == 2


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
