"""One download, two programs, one server: `chandlery fetch` beside `freqtrade download-data`.

    .venv/bin/python bench/fetch.py                      # 4 symbols x 250,000 candles of 1m, no limits, no latency
    .venv/bin/python bench/fetch.py --candles 2500000 --only chandlery     # ten million: memory must stay flat

Both talk to the same local exchange over loopback, as whole processes, in turn; every page is asked for once before
the first measured run, so that the server answers both from memory. The candles that each has stored are compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from side import Measured, exchange, machine, measure, rival

FREQTRADE = "2026.9"
SYMBOLS = ("BTC/USDT", "ETH/USDT", "BNB/USDT", "XRP/USDT")
MINUTE = 60_000
END = 1_717_200_000_000  # 2024-06-01T00:00Z
CLOCK = "2024-06-05T00:00Z,0"


def warm(url: str, since: int, until: int) -> None:
    """Ask for every page once."""
    for symbol in SYMBOLS:
        for start in range(since, until, 1000 * MINUTE):
            query = f"symbol={symbol.replace('/', '')}&interval=1m&startTime={start}&limit=1000"
            urllib.request.urlopen(f"{url}/api/v3/klines?{query}").read()  # noqa: S310


def chandlery(url: str, since: int, until: int, folder: Path) -> Measured:
    """Fetch into a fresh embedded store."""
    command = [
        sys.executable,
        "-m",
        "chandlery",
        "fetch",
        *SYMBOLS,
        "-t",
        "1m",
        "--since",
        str(since),
        "--until",
        str(until),
    ]
    command += ["--store", str(folder / "candles"), "--exchange-url", url, "--json", "-q"]
    return measure(command, env={"CHANDLERY_STATE": str(folder / "state")})


def freqtrade(url: str, since: int, until: int, folder: Path, bin_folder: Path) -> Measured:
    """Download into freqtrade's default format."""
    api = {
        "public": f"{url}/api/v3",
        "private": f"{url}/api/v3",
        "v1": f"{url}/api/v1",
        "sapi": f"{url}/sapi/v1",
    }
    api |= {"fapiPublic": f"{url}/fapi/v1", "dapiPublic": f"{url}/dapi/v1"}
    client = {"enableRateLimit": False, "urls": {"api": api}}
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
    command = [
        bin_folder / "freqtrade",
        "download-data",
        "-c",
        folder / "config.json",
        "--userdir",
        folder / "user",
    ]
    command += ["--timeframes", "1m", "--timerange", span, "--pairs", *SYMBOLS]
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
    parser.add_argument("--rivals", type=Path, default=Path.home() / ".cache" / "chandlery-bench")
    options = parser.parse_args()
    since = END - options.candles * MINUTE
    bin_folder = rival("freqtrade", FREQTRADE, options.rivals) if options.only != "chandlery" else Path()
    scratch = Path(tempfile.mkdtemp(prefix="chandlery-bench-"))
    found: dict[str, list[Measured]] = {"chandlery": [], "freqtrade": []}
    try:
        with exchange(SYMBOLS, clock=CLOCK) as url:
            warm(url, since, END)
            for run in range(options.runs):
                ours, theirs = scratch / f"ours{run}", scratch / f"theirs{run}"
                if options.only != "freqtrade":
                    ours.mkdir()
                    found["chandlery"].append(chandlery(url, since, END, ours))
                if options.only != "chandlery":
                    found["freqtrade"].append(freqtrade(url, since, END, theirs, bin_folder))
                if options.only is None:
                    print(
                        f"run {run + 1}: the same {same_candles(ours / 'candles', theirs, since, END):,} candles"
                    )
                shutil.rmtree(ours, ignore_errors=True)
                shutil.rmtree(theirs, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report(found, options.candles * len(SYMBOLS))


def report(found: dict[str, list[Measured]], candles: int) -> None:
    """Medians, and the ratios asked for: at most 0.7 of the wall time and 0.9 of the CPU seconds."""
    print(
        f"\n{candles:,} candles of 1m, {len(SYMBOLS)} symbols, no limits, no latency; medians\n{machine()}\n"
    )
    print(f"{'':12}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'candles per CPU s':>20}")
    middle: dict[str, tuple[float, float]] = {}
    for name, runs in found.items():
        if runs:
            wall, cpu, peak = (
                statistics.median(getattr(r, key) for r in runs) for key in ("wall", "cpu", "peak_mb")
            )
            middle[name] = (wall, cpu)
            print(f"{name:12}{wall:9.2f}{cpu:9.2f}{peak:9.0f}{candles / cpu:20,.0f}")
    if len(middle) == 2:
        wall, cpu = (a / b for a, b in zip(middle["chandlery"], middle["freqtrade"], strict=True))
        print(f"{'ratio':12}{wall:9.2f}{cpu:9.2f}   (at most 0.70 and 0.90)")


if __name__ == "__main__":
    main()
