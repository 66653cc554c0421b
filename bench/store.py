"""Measure the embedded store alone and print each number beside its limit: `python bench/store.py [FOLDER [PART]...]`.

FOLDER (default: a new one in the current folder) must be on the disk to be measured; it is left empty.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from chandlery.candle import CandlePage, SeriesId
from chandlery.stores.base import Ask, Page
from chandlery.stores.embedded import EmbeddedStore
from chandlery.timeframe import DAY, MINUTE
from chandlery.timerange import TimeRange

START = 1_672_531_200_000  # 2023-01-01
YEAR = TimeRange(START, START + 365 * DAY)
LATER = START + 1000 * DAY
TIMEFRAMES = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d", "3d", "1w")


def market(opens: np.ndarray, seed: int = 1) -> pl.DataFrame:
    """A random walk with prices in cents and volumes in 1/100,000, as a big exchange prints them."""
    dice = np.random.default_rng(seed)
    close = np.round(40_000 * np.exp(np.cumsum(dice.normal(0, 4e-4, len(opens)))), 2)
    open_ = np.concatenate(([40_000.0], close[:-1]))
    spread = np.abs(dice.normal(0, 8, (2, len(opens))))
    high = np.round(np.maximum(open_, close) + spread[0], 2)
    low = np.round(np.minimum(open_, close) - spread[1], 2)
    volume = np.round(dice.lognormal(3, 1, len(opens)), 5)
    time_column = pl.Series("time", opens).cast(pl.Datetime("ms", "UTC"))
    return pl.DataFrame(
        {"time": time_column, "open": open_, "high": high, "low": low, "close": close, "volume": volume}
    )


def page(series: SeriesId, candles: pl.DataFrame, at: int = LATER) -> Page:
    """A page that answers from its first candle to the end of its last."""
    opens = candles["time"].to_physical()
    answered = TimeRange(int(opens[0]), series.frame.next(int(opens[-1])))
    return Page(CandlePage(series, answered, candles, "bench", at))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def row(what: str, value: float, unit: str, limit: float, *, least: bool = False) -> None:
    good = value >= limit if least else value <= limit
    print(
        f"{what:<58}{value:>14,.3f} {unit:<7} {'>=' if least else '<='} {limit:>12,.1f}  {'ok' if good else 'MISSED'}"
    )


def fsync_ms(folder: Path) -> float:
    """The median of one fdatasync of 4 kB on this disk."""
    descriptor = os.open(folder / "probe", os.O_CREAT | os.O_RDWR)
    took = []
    for _ in range(200):
        os.write(descriptor, b"x" * 4096)
        began = time.perf_counter()
        os.fdatasync(descriptor)
        took.append(time.perf_counter() - began)
    os.close(descriptor)
    return statistics.median(took) * 1000


def bulk(folder: Path) -> None:
    series = SeriesId("binance", "BTC/USDT", "1m")
    candles = market(series.frame.opens(YEAR.since, YEAR.until))
    with EmbeddedStore(folder / "bulk") as store:
        store.write([Ask(series, YEAR, LATER, 0)])
        write, write_cpu = timed(lambda: store.write([page(series, candles)]))
        seal, seal_cpu = timed(store.seal)
        row(
            "bulk: one year of 1m written and sealed",
            candles.height / (write + seal),
            "rows/s",
            1_000_000,
            least=True,
        )
        print(f"    write {write:.3f} s (CPU {write_cpu:.3f}), seal {seal:.3f} s (CPU {seal_cpu:.3f})")
        took = [timed(lambda: store.candles(series))[0] for _ in range(7)]
        row("one year of 1m to a polars frame, sealed", statistics.median(took) * 1000, "ms", 100)
        overlapping = [page(series, candles[n * 900 : n * 900 + 1000]) for n in range(50)]
        took = [timed(lambda p=p: store.write([p]))[0] for p in overlapping]
        row("overlapping page of 1,000, all sealed, nothing new", statistics.median(took) * 1000, "ms", 5)
        changed = [
            page(series, market(candles["time"].to_physical().to_numpy()[n * 900 : n * 900 + 1000], n))
            for n in range(50)
        ]
        took = [timed(lambda p=p: store.write([p]))[0] for p in changed]
        row("overlapping page of 1,000, all revised", statistics.median(took) * 1000, "ms", 30)
        took = [timed(lambda: store.candles(series))[0] for _ in range(7)]
        row(
            "one year of 1m to a polars frame, with staged revisions",
            statistics.median(took) * 1000,
            "ms",
            100,
        )


def pages(folder: Path) -> None:
    series = SeriesId("binance", "BTC/USDT", "1m")
    candles = market(series.frame.opens(YEAR.since, YEAR.since + 300_000 * MINUTE))
    with EmbeddedStore(folder / "pages") as store, store.lock(series):
        store.write([Ask(series, YEAR, LATER, 0)])
        fresh = [page(series, candles[n * 1000 : (n + 1) * 1000]) for n in range(200)]
        took = [timed(lambda p=p: store.write([p])) for p in fresh]
        row(
            "one staged page of 1,000: CPU, median", statistics.median(cpu for _, cpu in took) * 1000, "ms", 1
        )
        print(f"    wall, median {statistics.median(wall for wall, _ in took) * 1000:.3f} ms")
        half = [page(series, candles[n * 1000 - 500 : (n + 1) * 1000 - 500]) for n in range(201, 290)]
        took = [timed(lambda p=p: store.write([p])) for p in half]
        again = [page(series, candles[n * 1000 - 100 : n * 1000 + 900]) for n in range(201, 280)]
        took = [timed(lambda p=p: store.write([p])) for p in again]
        row("overlapping page of 1,000, staged", statistics.median(wall for wall, _ in took) * 1000, "ms", 5)
        took = [timed(lambda: store.candles(series)) for _ in range(7)]
        row(
            "290,000 staged candles of 1m to a frame",
            statistics.median(wall for wall, _ in took) * 1000,
            "ms",
            100,
        )


def live(folder: Path) -> None:
    many = [SeriesId("binance", f"C{n}/USDT", "1m") for n in range(10)]
    with EmbeddedStore(folder / "live") as store:
        store.write([Ask(series, YEAR, START, 0) for series in many])
        opens = many[0].frame.opens(YEAR.since, YEAR.since + 1000 * MINUTE)
        candles = market(opens)
        calls = []
        for n in range(1000):
            at = int(opens[n]) + MINUTE + 10_000
            calls.append([page(series, candles[n : n + 1], at) for series in many])
        held = [store.lock(series) for series in many]
        for lock in held:
            lock.__enter__()
        took = [timed(lambda c=c: store.write(c)) for c in calls]
        row("ten series x one candle: wall, median", statistics.median(w for w, _ in took) * 1000, "ms", 1)
        cpu = statistics.median(c for _, c in took) * 1000
        print(
            f"    CPU, median {cpu:.3f} ms; ranges in one ledger after 1,000 live candles: {len(store.ledger(many[0]).answered)}"
        )
        store._catalogue.writer().execute("PRAGMA synchronous=OFF")  # noqa: SLF001 - what a commit costs without the disk
        opens = opens + 1000 * MINUTE
        candles = candles.with_columns(time=pl.Series(opens).cast(pl.Datetime("ms", "UTC")))
        calls = [
            [page(series, candles[n : n + 1], int(opens[n]) + MINUTE + 10_000) for series in many]
            for n in range(500)
        ]
        took = [timed(lambda c=c: store.write(c)) for c in calls]
        print(f"    without sync: wall, median {statistics.median(w for w, _ in took) * 1000:.3f} ms")
        for lock in held:
            lock.__exit__(None, None, None)


def sizes(folder: Path) -> None:
    with EmbeddedStore(folder / "sizes") as store:
        for timeframe in TIMEFRAMES:
            series = SeriesId("binance", "BTC/USDT", timeframe)
            candles = market(series.frame.opens(YEAR.since, YEAR.until))
            store.write([Ask(series, YEAR, LATER, 0), page(series, candles)])
        store.seal(everything=True)
        for timeframe in TIMEFRAMES:
            count = store.candles(SeriesId("binance", "BTC/USDT", timeframe)).height
            files = list((folder / "sizes").rglob(f"timeframe={timeframe}/*.parquet"))
            total = sum(file.stat().st_size for file in files)
            row(f"bytes a candle, {timeframe}, {count:,} in {len(files)} file(s)", total / count, "B", 30)
    catalogue = (folder / "sizes" / "catalogue.sqlite").stat().st_size
    print(f"    catalogue of these {len(TIMEFRAMES)} series after sealing: {catalogue:,} bytes")


def listing(folder: Path) -> None:
    with EmbeddedStore(folder / "listing") as store:
        for n in range(0, 10_000, 1000):
            store.write(
                [Ask(SeriesId("binance", f"C{m}/USDT", "1m"), YEAR, LATER, 0) for m in range(n, n + 1000)]
            )
        took = [timed(store.series)[0] for _ in range(5)]
        row("series() over 10,000 series", statistics.median(took) * 1000, "ms", 100)


def main() -> None:
    parts = [globals()[name] for name in sys.argv[2:]] or [bulk, pages, live, sizes, listing]
    place = Path(tempfile.mkdtemp(prefix="bench-store-", dir=sys.argv[1] if len(sys.argv) > 1 else "."))
    try:
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, polars {pl.__version__}"
        )
        print(f"one fdatasync of 4 kB: {fsync_ms(place):.3f} ms")
        for part in parts:
            part(place)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
