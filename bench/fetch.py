"""One download, two programs, one server: `chandlery fetch` beside `freqtrade download-data`.

    .venv/bin/python bench/fetch.py                      # 4 symbols x 250,000 candles of 1m, no limits, no latency
    .venv/bin/python bench/fetch.py --candles 1250000    # five million: candles per CPU second, and memory
    .venv/bin/python bench/fetch.py --candles 2500000 --only chandlery     # ten million: memory must stay flat
    .venv/bin/python bench/fetch.py --candles 261640 --latency 80 --limit 6000 --budget 100%

Both talk to the same local exchange over loopback, as whole processes, in turn; every page is asked for once before
the first measured run, so that the server answers both from memory. The candles that each has stored are compared.

Without limits freqtrade's own rate limiting is off, as chandlery has none to keep either. With `--limit` (weight a
minute, as Binance counts it) both run as they ship: freqtrade with ccxt's rate limit on, chandlery with `--budget`.
Then the exchange runs at the real time, and each program starts right after a minute of its clock has begun, with
nothing used. Requests that were refused (429, 418) are counted by the exchange.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from side import (
    MINUTE,
    Measured,
    exchange,
    forget,
    machine,
    measure,
    refused,
    rival,
    set_latency,
    wait_for_turn,
)

FREQTRADE = "2026.9"
WEIGHT = 2  # of one request for candles
SYMBOLS = ("BTC/USDT", "ETH/USDT", "BNB/USDT", "XRP/USDT")
END = 1_717_200_000_000  # 2024-06-01T00:00Z
CLOCK = "2024-06-05T00:00Z,0"


def warm(url: str, since: int, until: int, limit: int) -> None:
    """Ask for every page once, within the limit."""
    spent = 0
    for symbol in SYMBOLS:
        for start in range(since, until, 1000 * MINUTE):
            if limit and spent + WEIGHT > limit:
                wait_for_turn(url)
                spent = 0
            spent += WEIGHT
            query = f"symbol={symbol.replace('/', '')}&interval=1m&startTime={start}&limit=1000"
            urllib.request.urlopen(f"{url}/api/v3/klines?{query}").read()  # noqa: S310


def chandlery(url: str, since: int, until: int, folder: Path, budget: str) -> Measured:
    """Fetch into a fresh embedded store."""
    folder.mkdir(parents=True)
    command: list[str | Path] = [sys.executable, "-m", "chandlery", "fetch", *SYMBOLS, "-t", "1m"]
    command += ["--since", str(since), "--until", str(until), "--budget", budget]
    command += ["--store", folder / "candles", "--exchange-url", url, "--json", "-q"]
    return measure(command, env={"CHANDLERY_STATE": str(folder / "state")})


def freqtrade(
    url: str, since: int, until: int, folder: Path, bin_folder: Path, *, rate_limit: bool
) -> Measured:
    """Download into freqtrade's default format."""
    api = {
        "public": f"{url}/api/v3",
        "private": f"{url}/api/v3",
        "v1": f"{url}/api/v1",
        "sapi": f"{url}/sapi/v1",
    }
    api |= {"fapiPublic": f"{url}/fapi/v1", "dapiPublic": f"{url}/dapi/v1"}
    client = {"enableRateLimit": rate_limit, "urls": {"api": api}}
    config = {
        "trading_mode": "spot", "stake_currency": "USDT", "dry_run": True,
        "exchange": {
            "name": "binance", "only_from_ccxt": True, "pair_whitelist": list(SYMBOLS),
            "ccxt_config": client, "ccxt_async_config": client,
        },
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    subprocess.run(
        [bin_folder / "freqtrade", "create-userdir", "--userdir", folder / "user"],
        check=True,
        capture_output=True,
    )
    span = f"{since // 1000}-{until // 1000}"
    command: list[str | Path] = [bin_folder / "freqtrade", "download-data", "-c", folder / "config.json"]
    command += ["--userdir", folder / "user", "--timeframes", "1m", "--timerange", span, "--pairs", *SYMBOLS]
    return measure(command, cwd=folder)


def same_candles(ours: Path, theirs: Path, since: int, until: int) -> int:
    """How many candles both have, all equal; raises where they differ."""
    import polars as pl

    from chandlery import SeriesId, open_store

    total = 0
    with open_store(ours) as store:
        for symbol in SYMBOLS:
            mine = store.read(SeriesId("binance", symbol, "1m"), since, until)
            path = next(theirs.rglob(f"{symbol.replace('/', '_')}-1m.feather"))
            other = pl.read_ipc(path).select(
                pl.col("date").cast(pl.Datetime("ms", "UTC")).alias("time"), pl.exclude("date")
            )
            other = other.filter(pl.col("time").dt.epoch("ms").is_between(since, until, closed="left"))
            # freqtrade always leaves out the last row that came, in case it is not closed.
            if not 0 <= mine.height - other.height <= 1 or not mine.head(other.height).equals(other):
                raise SystemExit(f"{symbol}: {mine.height} candles here, {other.height} there, not the same")
            total += mine.height
    return total


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candles", type=int, default=250_000, help="candles of each of the four symbols")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=["chandlery", "freqtrade"])
    parser.add_argument(
        "--latency", type=int, default=0, metavar="MS", help="every answer comes so much later"
    )
    parser.add_argument("--limit", type=int, default=0, help="weight a minute; 0: no limit")
    parser.add_argument("--budget", default="80%", help="chandlery's share of the limit")
    parser.add_argument("--rivals", type=Path, default=Path.home() / ".cache" / "chandlery-bench")
    options = parser.parse_args()
    since = END - options.candles * MINUTE
    bin_folder = rival("freqtrade", FREQTRADE, options.rivals) if options.only != "chandlery" else Path()
    scratch = Path(tempfile.mkdtemp(prefix="chandlery-bench-"))
    found: dict[str, list[Run]] = {}
    try:
        clock = None if options.limit else CLOCK
        with exchange(SYMBOLS, clock=clock, limit=options.limit) as url:
            warm(url, since, END, options.limit)
            set_latency(url, options.latency)

            def run(name: str, program: Callable[[], Measured]) -> None:
                if options.limit:
                    wait_for_turn(url)
                forget(url)
                measured = program()
                found.setdefault(name, []).append(Run(measured, refused(url)))

            for number in range(options.runs):
                ours, theirs = scratch / f"ours{number}", scratch / f"theirs{number}"
                if options.only != "freqtrade":
                    run("chandlery", partial(chandlery, url, since, END, ours, options.budget))
                if options.only != "chandlery":
                    paced = options.limit > 0
                    run(
                        "freqtrade",
                        partial(freqtrade, url, since, END, theirs, bin_folder, rate_limit=paced),
                    )
                if options.only is None:
                    # In a process of its own: the kernel counts this one's memory as the peak of those that it starts.
                    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
                        same = apart.submit(same_candles, ours / "candles", theirs, since, END).result()
                    print(f"run {number + 1}: the same {same:,} candles", flush=True)
                shutil.rmtree(ours, ignore_errors=True)
                shutil.rmtree(theirs, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    limits = f"{options.limit:,} weight a minute, --budget {options.budget}" if options.limit else "no limits"
    latency = f"{options.latency} ms latency" if options.latency else "no latency"
    print(
        f"\n{options.candles * len(SYMBOLS):,} candles of 1m, {len(SYMBOLS)} symbols, {limits}, {latency}; medians"
    )
    print(f"{machine()}\n")
    report(found, options.candles * len(SYMBOLS))


@dataclass(frozen=True, slots=True)
class Run:
    """One program's run, and how many of its requests the exchange refused."""

    measured: Measured
    refused: int


def report(found: dict[str, list[Run]], candles: int) -> None:
    """Medians, and how many times as fast, as cheap and as small chandlery is."""
    print(f"{'':12}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'candles per CPU s':>20}{'429 and 418':>13}")
    middle: dict[str, tuple[float, float, float]] = {}
    for name, runs in found.items():
        wall, cpu, peak = (
            statistics.median(getattr(r.measured, key) for r in runs) for key in ("wall", "cpu", "peak_mb")
        )
        middle[name] = (wall, cpu, peak)
        no = sum(r.refused for r in runs)
        print(f"{name:12}{wall:9.2f}{cpu:9.2f}{peak:9.0f}{candles / cpu:20,.0f}{no:13}")
    if len(middle) == 2:
        wall, cpu, peak = (a / b for a, b in zip(middle["freqtrade"], middle["chandlery"], strict=True))
        print(
            f"\nfreqtrade takes {wall:.2f} x the time, {cpu:.2f} x the CPU seconds, {peak:.2f} x the memory"
        )


if __name__ == "__main__":
    main()
