"""InfluxDB as a mirror is away: for the whole of a fetch, and again and again. It catches up to equality, whatever happened."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.influx.fixtures import StartInfluxd

from chandlery.exchange import LocalExchange

from .influx_run import Run, running

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
SPAN = ("--since", "2024-01-01", "--until", "2024-02-10")
WORDS = ["fetch", *SYMBOLS, "-t", "1m", *SPAN]
SERVER_KILLS = 20
MIB = 1024  # ru_maxrss is in KiB


def peak(run: Run, *words: object) -> tuple[int, str, int]:
    """Exit code, stderr, and the largest memory (KiB) of a command that runs to its end."""
    with (run.folder / "stderr").open("w+") as err:
        process = run.start(*words, stdout=err, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        return process.returncode, err.read(), usage.ru_maxrss


@pytest.mark.slow
def test_mirror_down_for_a_whole_fetch(
    exchange: LocalExchange, start_influxd: StartInfluxd, tmp_path: Path
) -> None:
    """A mirror that is down costs a fetch exit 4 and a word, no candle and no memory; the next run makes it equal."""
    server = start_influxd()
    with running(exchange, server, tmp_path) as run:
        code, err, alone = peak(run, *WORDS, "--store", "alone")
        assert code == 0, err
        server.stop()
        code, err, beside = peak(run, *WORDS, "--store", "candles", "--mirror", "influxdb")
        assert code == 4, err
        assert "error: mirror influxdb: " in err
        assert "the next run tries to catch up" in err
        assert "is influxd running" in err
        assert beside < alone + 40 * MIB, f"a mirror that is down took {(beside - alone) / MIB:.0f} MiB"
        complete = run.command("verify", "--store", "candles")
        assert complete.code == 0, complete.out
        server.start()
        assert server.count("ohlcv", run.bucket, field="volume") == 0
        asked = run.candles_asked
        code, err, later = peak(run, *WORDS, "--store", "candles", "--mirror", "influxdb")
        assert code == 0, err
        assert "up to date" in err
        assert run.candles_asked == asked, "the exchange was asked for what the store has"
        assert later < alone + 250 * MIB, f"catching up took {(later - alone) / MIB:.0f} MiB"
        check_equal(run)
        verified = run.command("verify", "--store", "influxdb")
        assert verified.code == 0, verified.out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_mirror_killed_while_it_follows(
    exchange: LocalExchange,
    start_influxd: StartInfluxd,
    tmp_path: Path,
    seed: int,
    proven_count: Callable[[int], int],
) -> None:
    """A mirror whose server is killed again and again beside a fetch is equal in the end."""
    rng = random.Random(f"{seed} mirror")
    server = start_influxd()
    with running(exchange, server, tmp_path) as run:
        start = run.candles_asked
        process = run.start(*WORDS, "--store", "candles", "--mirror", "influxdb")
        for moment in sorted(rng.sample(range(3, 160), proven_count(SERVER_KILLS))):
            run.wait_for_requests(start + moment, process)
            server.kill()
            server.start()
        out, err = process.communicate(timeout=300)
        # The fetch itself never fails; its mirror may not have caught up when the server went away at the very end.
        assert process.returncode in (0, 4), out + err
        if process.returncode == 4:
            assert "the next run tries to catch up" in err, f"seed {seed}: {err}"
            again = run.command(*WORDS, "--store", "candles", "--mirror", "influxdb")
            assert again.code == 0, f"seed {seed}: {again.err}"
        check_equal(run)


def check_equal(run: Run) -> None:
    """Store and mirror are equal bit for bit, and both are the exchange's."""
    found = run.command("diff", "candles", "influxdb")
    assert found.code == 0, found.out + found.err
    assert run.command("diff", "influxdb", "candles").code == 0
