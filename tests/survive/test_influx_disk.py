"""The disk of influxd fills up under a fetch: it stops, says what to do, has lost nothing, and goes on afterwards.

The server keeps its points on a small file system of its own in memory. Mounting one takes root.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.influx.fixtures import REQUIRE
from tests.influx.influx_server import InfluxServer

from chandlery.candle import SeriesId

from .influx_run import Run, check_ledger, check_whole, fetch_words, running, still_exchange

MIB = 1 << 20
ROUNDS = 10
SPAN = "2024-01-01/2024-03-01"
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 64 MiB, unmounted afterwards."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "chandlery-test", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        why = f"a small file system cannot be mounted here, which takes root on Linux: {made.stderr.strip()}"
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(f"{why}; {REQUIRE}=1 asks for this test", pytrace=False)
        pytest.skip(why)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_disk_full(
    influxd_program: Path, tmp_path: Path, seed: int, proven_count: Callable[[int], int]
) -> None:
    """A full disk under influxd ends the fetch with 4 and the mend; nothing acknowledged is lost; then it goes on."""
    rng = random.Random(f"{seed} disk")
    for number in range(proven_count(ROUNDS)):
        folder = tmp_path / str(number)
        room = round(rng.uniform(10, 12.5) * MIB)
        with (
            small_disk(folder / "disk") as disk,
            InfluxServer(influxd_program, folder / "influxd", engine=disk / "engine") as server,
            still_exchange() as exchange,
            running(exchange, server, folder / "run") as run,
        ):
            fill_up_and_go_on(run, disk, room, f"seed {seed}, round {number}, {room:,} bytes")


def fill_up_and_go_on(run: Run, disk: Path, room: int, note: str) -> None:
    """Fetch more than there is room for; look at what is claimed after a restart; go on."""
    words = fetch_words(SYMBOLS, "1m", SPAN)
    wanted = [(SeriesId("binance", symbol, "1m"), SPAN) for symbol in SYMBOLS]
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    ballast.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - room))
    process = run.start(*words)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 4, f"{note}: {out} {err}"
    assert "no space left" in err, note
    assert "make room, then restart influxd" in err, note
    assert err.count("hint: ") == 1, f"{note}: {err}"
    ballast.unlink()
    # The server gives back rows that it could not write down; another run must not take them for stored.
    unwise = run.command(*words)
    assert unwise.code in (0, 4), f"{note}: {unwise.err}"
    run.server.kill()
    run.server.start()
    with run.store() as store:
        claimed = [check_ledger(store, series, run.truth(series, span), note) for series, span in wanted]
    assert sum(claimed) > 0, f"{note}: the disk was full before the first answer"
    again = run.command(*words)
    assert again.code == 0, f"{note}: {again.err}"
    check_whole(run, wanted, words, note)
