"""kill -9 at any instant, run again: the same data as an unbroken run.

The client is a real process that fetches three sealed partitions over HTTP and is killed with SIGKILL: at every
failpoint between a page's arrival and the catalogue's commit, and while a request is on its way.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from chandlery.candle import SeriesId
from chandlery.errors import NoSuchSeries
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.export import digest
from chandlery.failpoints import NAMES
from chandlery.ledger import State
from chandlery.stores import open_store
from chandlery.timerange import TimeRange
from chandlery.verify import verify_series
from chandlery.when import parse_when

SERIES = SeriesId("binance", "BTC/USDT", "15m")
SINCE = parse_when("2023-04-01", now=0)
UNTIL = parse_when("2024-02-10", now=0)  # 2023 Q2, Q3 and Q4 whole, and a part that stays staged
SLOTS = (UNTIL - SINCE) // SERIES.frame.floor(900_000)
KILLS_EACH = 20
FULL_PARTITIONS = 3


@pytest.fixture(scope="module")
def exchange() -> Iterator[LocalExchange]:
    """One local exchange whose clock stands still, without limits."""
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:00Z,0", weight_limit=0)) as running:
        yield running


@pytest.fixture(scope="module")
def truth(exchange: LocalExchange) -> pl.DataFrame:
    """What a perfect client would have stored."""
    return exchange.truth(SERIES.symbol, SERIES.timeframe, SINCE, UNTIL)


def fetch(exchange: LocalExchange, store: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start the real command in a process of its own."""
    command = [sys.executable, "-m", "chandlery", "fetch", SERIES.symbol, "-t", SERIES.timeframe]
    command += ["--since", str(SINCE), "--until", str(UNTIL), "--store", str(store), "--json"]
    command += ["--exchange-url", exchange.url]
    env = {**os.environ, **environment}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def unbroken(exchange: LocalExchange, truth: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("unbroken") / "candles"
    process = fetch(exchange, folder, CHANDLERY_STATE=str(folder.parent / "state"))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    assert json.loads(out)["series"][0]["written"] == truth.height
    with open_store(folder, create=False) as store:
        assert store.candles(SERIES).equals(truth)
        sealed = list(folder.rglob("*.parquet"))
        assert len(sealed) == FULL_PARTITIONS
        return digest(store, SERIES)


def check_after_kill(folder: Path, truth: pl.DataFrame) -> None:
    """What is there is right, and verify says what is missing of what was asked, before anything is mended."""
    if not folder.exists():
        return
    with open_store(folder, create=False) as store:
        try:
            verdict = verify_series(store, SERIES)
        except NoSuchSeries:
            return  # killed before the ask was committed: nothing was asked
        stored = store.candles(SERIES)
    assert stored.join(truth, on=stored.columns, how="anti").is_empty(), (
        "a stored candle is not the exchange's"
    )
    assert verdict.account.expected == SLOTS
    assert verdict.unexplained == 0
    assert not verdict.problems
    there = stored["time"]
    for gap in verdict.account.gaps:
        span = TimeRange(gap.since, gap.until)
        in_truth = truth.filter(
            pl.col("time").dt.epoch("ms").is_between(span.since, span.until, closed="left")
        )
        if gap.state is State.ABSENT:
            assert in_truth.is_empty(), "a candle that the exchange has is called absent"
        else:
            assert gap.state is State.MISSING
            assert not in_truth["time"].is_in(there.implode()).any()
    lost = truth.height - stored.height
    assert verdict.account.counts[State.MISSING] >= lost
    assert verdict.ok == (verdict.account.counts[State.MISSING] == 0)


def check_healed(exchange: LocalExchange, folder: Path, expected: str, seed_note: str) -> None:
    """Running again completes; running once more writes nothing and asks for no candle."""
    state = str(folder.parent / "state")
    again = fetch(exchange, folder, CHANDLERY_STATE=state)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, f"{seed_note}: {err.decode()}"
    with open_store(folder, create=False) as store:
        assert digest(store, SERIES) == expected, seed_note
        last = max(entry.seq for entry in store.journal())
    before = klines_asked(exchange)
    further = fetch(exchange, folder, CHANDLERY_STATE=state)
    out, err = further.communicate(timeout=120)
    assert further.returncode == 0, f"{seed_note}: {err.decode()}"
    assert klines_asked(exchange) == before, f"{seed_note}: a complete series was asked for again"
    assert json.loads(out)["series"][0]["written"] == 0
    with open_store(folder, create=False) as store:
        assert max(entry.seq for entry in store.journal()) == last, (
            f"{seed_note}: a complete series was written"
        )
        assert digest(store, SERIES) == expected
    assert not list(folder.rglob("*.tmp*")), f"{seed_note}: temporary files are left"


def klines_asked(exchange: LocalExchange) -> int:
    """How many requests for candles the server has seen."""
    return sum(record.path.endswith("/klines") for record in exchange.requests)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_failpoint(
    name: str,
    exchange: LocalExchange,
    truth: pl.DataFrame,
    unbroken: str,
    tmp_path: Path,
    seed: int,
    proven_count: Callable[[int], int],
) -> None:
    """A process killed at any passing of this failpoint loses nothing and leaves nothing to mend."""
    rng = random.Random(f"{seed} {name}")
    for kill in range(proven_count(KILLS_EACH)):
        passing = rng.randint(1, FULL_PARTITIONS if name.startswith("seal") else 24)
        while True:
            folder = tmp_path / f"{kill}-{passing}" / "candles"
            state = str(folder.parent / "state")
            process = fetch(exchange, folder, CHANDLERY_STATE=state, CHANDLERY_FAILPOINT=f"{name}:{passing}")
            _, err = process.communicate(timeout=120)
            if process.returncode == -signal.SIGKILL:
                break
            # Waiting pages share a commit, so a run may pass fewer times than was drawn.
            assert process.returncode == 0, err.decode()
            assert passing > 1, f"{name} was never passed"
            passing //= 2
        check_after_kill(folder, truth)
        check_healed(exchange, folder, unbroken, f"seed {seed}, {name}:{passing}")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_between_requests(
    exchange: LocalExchange,
    truth: pl.DataFrame,
    unbroken: str,
    tmp_path: Path,
    seed: int,
    proven_count: Callable[[int], int],
) -> None:
    """A process killed at any request loses nothing and leaves nothing to mend."""
    rng = random.Random(f"{seed} requests")
    pages = truth.height // 1000
    for kill in range(proven_count(KILLS_EACH)):
        request = rng.randint(1, pages)
        folder = tmp_path / str(kill) / "candles"
        start = klines_asked(exchange)
        process = fetch(exchange, folder, CHANDLERY_STATE=str(folder.parent / "state"))
        while klines_asked(exchange) < start + request and process.poll() is None:
            time.sleep(0.0005)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, (
            f"seed {seed}: the run was over before request {request}"
        )
        check_after_kill(folder, truth)
        check_healed(exchange, folder, unbroken, f"seed {seed}, request {request}")
