"""The disk of influxd fills up under a fetch: it stops, says what to do, has lost nothing, and goes on afterwards.

The server keeps its points on a small file system of its own in memory. Mounting one takes root.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.influx.fixtures import REQUIRE, StartInfluxd

from chandlery.candle import SeriesId

from .influx_run import check_ledger, check_whole, fetch_words, running, still_exchange

MIB = 1 << 20
SPAN = "2024-01-01/2024-03-01"
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, unmounted afterwards."""
    folder = tmp_path / "disk"
    folder.mkdir()
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
def test_disk_full(small_disk: Path, start_influxd: StartInfluxd, tmp_path: Path) -> None:
    """A full disk under influxd ends the fetch with 4 and the mend; nothing acknowledged is lost; then it goes on."""
    server = start_influxd(engine=small_disk / "engine")
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk)
    ballast.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - 12 * MIB))
    words = fetch_words(SYMBOLS, "1m", SPAN)
    wanted = [(SeriesId("binance", symbol, "1m"), SPAN) for symbol in SYMBOLS]
    with still_exchange() as exchange, running(exchange, server, tmp_path / "run") as run:
        process = run.start(*words)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 4, out + err
        assert "no space left" in err
        assert "make room, then restart influxd" in err
        assert err.count("hint: ") == 1, err
        ballast.unlink()
        server.stop()
        server.start()
        with run.store() as store:
            claimed = {
                series: check_ledger(store, series, run.truth(series, span)) for series, span in wanted
            }
        assert sum(claimed.values()) > 0, "the disk was full before the first answer"
        assert sum(claimed.values()) < sum(run.truth(*one).height for one in wanted)
        again = run.command(*words)
        assert again.code == 0, again.err
        check_whole(run, wanted, words)
