"""influxd and the fetching process are killed with SIGKILL at any instant: nothing acknowledged is lost.

The ledger is looked at right after each kill: whatever it claims must be there bit for bit.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from tests.influx.fixtures import StartInfluxd
from tests.influx.influx_server import InfluxServer

from chandlery.candle import SeriesId
from chandlery.exchange import LocalExchange
from chandlery.failpoints import INFLUX_NAMES

from .influx_run import (
    Run,
    check_ledger,
    check_whole,
    delete,
    fetch_words,
    plant,
    running,
    truth_of,
)

SERVER_KILLS = 20
KILLS_EACH = 10
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_server_killed_under_write(
    exchange: LocalExchange,
    start_influxd: StartInfluxd,
    tmp_path: Path,
    seed: int,
    proven_count: Callable[[int], int],
) -> None:
    """A server that is killed again and again while candles of four series go in never loses one that the ledger claims."""
    kills = proven_count(SERVER_KILLS)
    span = "2024-02-01/2024-03-12" if kills > 2 else "2024-02-01/2024-02-15"
    wanted = [(SeriesId("binance", symbol, "1m"), span) for symbol in SYMBOLS]
    truths = {series: truth_of(exchange, series, span) for series, _ in wanted}
    pages = sum(-(-truth.height // 1000) for truth in truths.values())
    rng = random.Random(f"{seed} influxd")
    late = rng.randrange(pages // 2, pages - 2)  # something is answered by then
    moments = sorted([*rng.sample(range(3, pages // 2), kills - 1), late])
    server = start_influxd()
    words = fetch_words(SYMBOLS, "1m", span)
    with running(exchange, server, tmp_path) as run:
        start = run.candles_asked
        process = run.start(*words, "--json")
        claimed = 0
        for number, moment in enumerate(moments, 1):
            run.wait_for_requests(start + moment, process)
            time.sleep(rng.uniform(0, 0.2))  # into the middle of a write
            server.kill()
            server.start()
            with run.store() as store:
                note = f"seed {seed}, kill {number} at request {moment}"
                claimed = sum(check_ledger(store, series, truth, note) for series, truth in truths.items())
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, f"seed {seed}: {out} {err}"
        assert claimed > 0, f"seed {seed}: every kill came before the first answer"
        check_whole(run, wanted, words, f"seed {seed}")


SERIES = SeriesId("binance", "BTC/USDT", "15m")
SPAN = "2023-09-01/2023-12-01"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", INFLUX_NAMES)
def test_killed_at_failpoint(
    name: str,
    exchange: LocalExchange,
    influxd: InfluxServer,
    tmp_path: Path,
    seed: int,
    proven_count: Callable[[int], int],
) -> None:
    """A process killed at any stage of a commit leaves a ledger that claims too little, never too much.

    A candle that it was about to put right is recorded as a revision, once.
    """
    rng = random.Random(f"{seed} {name}")
    for kill in range(proven_count(KILLS_EACH)):
        passing = rng.randint(1, 6)
        while True:
            with running(exchange, influxd, tmp_path / f"{kill}-{passing}") as run:
                note = f"seed {seed}, {name}:{passing}"
                changed = plant_change(run, run.truth(SERIES, SPAN), rng)
                process = run.start(*_words(), CHANDLERY_FAILPOINT=f"{name}:{passing}")
                _, err = process.communicate(timeout=120)
                if process.returncode == -signal.SIGKILL:
                    check_healed(run, note, planted=changed)
                    with run.store() as store:
                        assert [one.open for one in store.revisions(SERIES)] == [changed], note
                    break
            # Waiting pages share a commit, so a run may pass fewer times than was drawn.
            assert process.returncode == 0, err
            assert passing > 1, f"{name} was never passed"
            passing //= 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_between_requests(
    exchange: LocalExchange,
    influxd: InfluxServer,
    tmp_path: Path,
    seed: int,
    proven_count: Callable[[int], int],
) -> None:
    """A process killed at any moment loses nothing and leaves nothing to mend."""
    rng = random.Random(f"{seed} requests")
    for kill in range(proven_count(KILLS_EACH)):
        request = rng.randint(1, 8)
        with running(exchange, influxd, tmp_path / str(kill)) as run:
            start = run.candles_asked
            process = run.start(*_words())
            run.wait_for_requests(start + request, process)
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
            process.communicate()
            check_healed(run, f"seed {seed}, request {request}")


def _words() -> list[str]:
    return fetch_words([SERIES.symbol], SERIES.timeframe, SPAN)


def plant_change(run: Run, truth: pl.DataFrame, rng: random.Random) -> int:
    """Put a candle with another volume where the fetch will come by; returns its open time."""
    time, *values, volume = truth.with_columns(pl.col("time").dt.epoch("ms")).row(rng.randrange(truth.height))
    pairs = zip(("open", "high", "low", "close", "volume"), (*values, volume + 1.0), strict=True)
    fields = ",".join(f"{name}={value}" for name, value in pairs)
    plant(run, f"ohlcv,symbol=BTC_USDT,timeframe=15m,exchange=binance {fields} {time}")
    return int(time)


def check_healed(run: Run, note: str, planted: int | None = None) -> None:
    """What a killed run left is right; the next one completes it; what is lost behind it is noticed to the last candle."""
    with run.store() as store:
        check_ledger(store, SERIES, run.truth(SERIES, SPAN), note, planted=planted)
    again = run.command(*_words())
    assert again.code == 0, f"{note}: {again.err}"
    check_whole(run, [(SERIES, SPAN)], _words(), note)
    lost = run.truth(SERIES, SPAN).sample(1, seed=len(note))["time"][0]
    stamp = f"{lost:%Y-%m-%dT%H:%M:%SZ}"
    delete(run, stamp, stamp, '_measurement="ohlcv"')
    assert run.command("verify", "--store", "influxdb").code == 1, (
        f"{note}: the loss of {stamp} goes unnoticed"
    )
    healed = run.command("verify", "--repair", "--store", "influxdb")
    assert healed.code == 0, f"{note}: {healed.out} {healed.err}"
    check_whole(run, [(SERIES, SPAN)], _words(), note)
