"""A process that is killed while it writes or seals loses nothing that it acknowledged, and leaves a store that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chandlery.failpoints import NAMES
from chandlery.stores import open_store
from chandlery.testing.store_scenes import LATER, SERIES, START, bits, candles, picture
from chandlery.timeframe import HOUR

# Writes pages of 100 candles over two years of 1h, sealing on the way, and says on stdout what was acknowledged.
WORKER = """
import sys
from chandlery.stores import open_store
from chandlery.testing.store_scenes import SERIES, ask, page
store = open_store(sys.argv[1])
with store.lock(SERIES):
    store.write([ask(0, 18000)])
    for n in range(0, 18000, 1000):
        store.write([page(n + m, n + m + 100) for m in range(0, 1000, 100)])
        print(n + 1000, flush=True)
        store.seal(SERIES)
    store.write([page(500, 600, seed=3)])
    store.seal(everything=True)
print("done", flush=True)
"""


def run_worker(folder: Path, failpoint: str = "") -> subprocess.CompletedProcess[str]:
    """Run the worker, to be killed at the failpoint if one is named."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if failpoint:
        environment["CHANDLERY_FAILPOINT"] = failpoint
    return subprocess.run(
        [sys.executable, "-c", WORKER, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a run without a kill leaves, but for the journal's numbers."""
    folder = tmp_path_factory.mktemp("unbroken") / "candles"
    assert run_worker(folder).stdout.endswith("done\n")
    with open_store(folder) as store:
        return picture(store)


@pytest.mark.parametrize("name", NAMES)
def test_kill_at_failpoint_loses_nothing(name: str, tmp_path: Path, unbroken: dict[str, object]) -> None:
    """Killed at that point, the store reads what was acknowledged, and a second run ends as an unbroken one."""
    folder = tmp_path / "candles"
    killed = run_worker(folder, f"{name}:2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    acknowledged = max([int(line) for line in killed.stdout.split()], default=0)
    with open_store(folder, create=False) as store:
        height = len(store.opens(SERIES))
        assert height % 1000 == 0
        assert acknowledged <= height <= acknowledged + 1000
        assert bits(store.candles(SERIES)) == bits(candles(list(range(height))))
        answered = store.ledger(SERIES).answered_ranges
        assert (answered.until if answered else START) == START + height * HOUR
        assert store.check(SERIES) == []
    again = run_worker(folder)
    assert again.stdout.endswith("done\n"), again.stderr
    with open_store(folder) as store:
        assert picture(store)["kept"] == unbroken["kept"]
        assert store.check(SERIES) == []
    left = [path.name for path in folder.rglob("*") if path.suffix == ".tmp"]
    assert left == []
    assert LATER  # the worker's clock, by which all of it is confirmed


def test_reader_in_another_process_sees_whole_pages(tmp_path: Path) -> None:
    """While a process writes and seals, another reads: whole commits only, never fewer, never an error."""
    folder = tmp_path / "candles"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        seen = [int(writer.stdout.readline())]
        with open_store(folder, create=False) as store:
            while writer.poll() is None:
                frame = store.candles(SERIES)
                seen.append(frame.height)
                assert frame["time"].is_sorted()
        assert writer.returncode == 0
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert all(height % 1000 == 0 for height in seen)


def test_lock_names_the_other_process_and_dies_with_it(tmp_path: Path) -> None:
    """A series locked elsewhere is refused with that process's id, for writing too; when it is killed, the lock is free."""
    from chandlery.errors import SeriesLocked
    from chandlery.testing.store_scenes import OTHER, page

    holder = """
import sys, time
from chandlery.stores import open_store
from chandlery.testing.store_scenes import SERIES, page
store = open_store(sys.argv[1])
with store.lock(SERIES):
    store.write([page(0, 5)])
    print("held", flush=True)
    time.sleep(60)
"""
    folder = tmp_path / "candles"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with open_store(folder) as store:
                for use in (
                    store.lock(SERIES).__enter__,
                    lambda: store.write([page(5, 6)]),
                    lambda: store.remove(SERIES),
                ):
                    with pytest.raises(SeriesLocked) as refused:
                        use()
                    assert refused.value.pid == other.pid
                    assert str(other.pid) in refused.value.message
                assert store.write([page(0, 9, series=OTHER)])[0].new == 9
                with pytest.raises(SeriesLocked):
                    store.seal(everything=True)
                assert len(list(folder.rglob("*.parquet"))) == 1
                other.kill()
                other.wait()
                with store.lock(SERIES):
                    assert store.write([page(5, 6)])[0].new == 1
        finally:
            other.kill()


def test_two_processes_make_and_write_one_store(tmp_path: Path) -> None:
    """Processes that start together on a folder that is not there yet write their series side by side."""
    script = """
import sys
from chandlery.candle import SeriesId
from chandlery.stores import open_store
from chandlery.testing.store_scenes import page
series = SeriesId("binance", sys.argv[2], "1h")
with open_store(sys.argv[1]) as store, store.lock(series):
    for n in range(0, 300, 10):
        store.write([page(n, n + 10, series=series)])
"""
    folder = tmp_path / "candles"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    names = [f"C{n}/USDT" for n in range(4)]
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(folder), name], env=environment) for name in names
    ]
    assert [writer.wait(60) for writer in writers] == [0] * len(names)
    with open_store(folder, create=False) as store:
        assert [(s.series.symbol, s.candles) for s in store.series()] == [(name, 300) for name in names]
        assert [entry.seq for entry in store.journal()] == list(range(1, 121))
